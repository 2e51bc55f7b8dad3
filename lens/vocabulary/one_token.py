"""One token through every router, on the direct path: see `lens.vocabulary.readout`.

Axes: layer (L), expert (E), choice (K), d_model (d).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from grok.checkpoints.token_embedding import EPSILON
from lens.recipe.steps import remembered
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet
from lens.stats.p_values import benjamini_hochberg
from lens.vocabulary.mixed_experts import mixture_tail
from lens.vocabulary.readout import (
    ArrayRows,
    Readout,
    ReadoutSettings,
    as_normed,
    check_fit,
    lengths,
    unit_rows,
)
from lens.vocabulary.streamed_pushes import inverse_rms
from lens.vocabulary.top_tokens import margins, selection_thresholds


@dataclass(frozen=True, eq=False)
class TokenReading:
    """One token on the direct path, through every router.

    Attributes:
        push: in logits.
        margin: see `Readout`.
        chosen: the experts that would be selected, largest logit first.
        z: push / ‖w̃‖: 0 ± 1 for a random direction.
        p: of |push|, for a mixture of the layer's experts as long as the expert; in closed
            form, see `lens.vocabulary.mixed_experts`. In the raw view `unrelated_p`.
        q: `p` after Benjamini and Hochberg over all experts.
        unrelated_p, unrelated_q: for a random direction, the absolute zero: cos² of
            unrelated directions is Beta(1/2, (d − 1)/2).
    """

    push: Float[np.ndarray, "layer expert"]
    margin: Float[np.ndarray, "layer expert"]
    chosen: Int[np.ndarray, "layer choice"]
    z: Float[np.ndarray, "layer expert"]
    p: Float[np.ndarray, "layer expert"]
    q: Float[np.ndarray, "layer expert"]
    unrelated_p: Float[np.ndarray, "layer expert"]
    unrelated_q: Float[np.ndarray, "layer expert"]


def token_reading(
    routers: RouterSet,
    row: Float[np.ndarray, " d_model"],
    multiplier: float = 1.0,
    view: str = "canonical",
    *,
    epsilon: float = EPSILON,
    centred: bool = False,
) -> TokenReading:
    """Logits of every expert for one token's embedding, on the direct path.

    Args:
        row: the embedding, without the multiplier.
        multiplier, epsilon, centred: of the model, see `EmbeddingRows`.
        view: "canonical" or "raw".

    Raises:
        LensError: the row does not fit the routers or is not finite.
    """
    rows = ArrayRows(as_normed(np.asarray(row, np.float32)[None], centred), multiplier, epsilon)
    check_fit(routers, rows, ReadoutSettings(view))
    from scipy.special import betainc

    columns = unit_rows(routers, view)
    norm = lengths(columns, routers)
    inverse, _ = inverse_rms(rows.array, multiplier, epsilon, 0)
    push = (columns @ rows.array[0] * inverse[0]).reshape(norm.shape)
    scores = push if routers.biases is None else push + routers.biases
    last, following = selection_thresholds(scores[:, :, None], routers.top_k)
    length = float(np.linalg.norm(rows.array[0].astype(np.float64)) * inverse[0])
    cosine = push / (norm * length) if length else np.zeros(norm.shape)
    unrelated = betainc((routers.d_model - 1) / 2, 0.5, np.clip(1 - cosine**2, 0, 1))
    p = unrelated
    if view == "canonical":
        own = router_gram(routers, held_columns=0).own
        each = (routers.n_experts, 1)
        p = np.stack(
            [
                np.minimum(2 * mixture_tail(own[layer], np.tile(row, each), np.abs(row) / size), 1)
                for layer, (row, size) in enumerate(zip(push, norm, strict=True))
            ]
        )
    return TokenReading(
        push=push,
        margin=margins(scores, last, following),
        chosen=np.argsort(-scores, axis=1, kind="stable")[:, : routers.top_k],
        z=push / norm,
        p=p,
        q=benjamini_hochberg(p),
        unrelated_p=unrelated,
        unrelated_q=benjamini_hochberg(unrelated),
    )


@remembered
def standing(readout: Readout, reading: TokenReading) -> Float[np.ndarray, "layer expert"]:
    """Pushes of a token in standard deviations of each expert's pushes over the vocabulary."""
    spread = np.where(readout.sd > 0, readout.sd, np.nan)
    found: np.ndarray = np.nan_to_num((reading.push - readout.mean) / spread)
    return found
