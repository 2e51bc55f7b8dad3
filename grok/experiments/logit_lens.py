"""The logit lens: next tokens that the residual stream after each layer stands for.

Axes: L layers, T tokens, N padded tokens, C candidates, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from grok.engine.largest import largest
from grok.interventions.sites import HookPoint
from grok.runner.interfaces import Prompt
from grok.runner.results import pieces_apart

if TYPE_CHECKING:
    from grok.runner.model import Model


@dataclass(frozen=True, eq=False)
class LogitLens:
    """Next-token distributions of the residual stream after each layer.

    Attributes:
        tokens: likeliest next tokens after each layer [L, T, C]; pieces: their pieces.
        probs: their probabilities [L, T, C].
        kl: KL(the whole model ‖ up to this layer) [L, T], nats; 0 after the last layer but
            for rounding.
        next_probs: probability of the token that follows in the prompt [L, T - 1].
    """

    tokens: np.ndarray
    pieces: np.ndarray
    probs: np.ndarray
    kl: np.ndarray
    next_probs: np.ndarray


def logit_lens(model: Model, prompt: Prompt, *, candidates: int = 10) -> LogitLens:
    """Applies the final norm and the unembedding to the stream after every layer.

    Reading it: later layers expect what the final norm finds in their input; an early layer's
    distribution is of a stream that the model itself never unembeds.

    Raises:
        PromptError: see `Model.encode`.
    """
    tokens = model.encode(prompt)
    n_layers, count = model.config.n_layers, model.n_candidates(candidates)
    points = [HookPoint(layer, "resid_post") for layer in range(n_layers)]
    result = model.run_one(tokens, candidates=count, wanted=points)
    following = np.zeros(result.logits.shape[1], np.int32)
    following[: tokens.size - 1] = tokens[1:]
    streams = np.concatenate([result.kept[point] for point in points])  # [L, N, D]
    read = model.engine.embed_unembed.of_logits(_Lens(count), streams, result.logits[0], following)
    ids, probs, kl, after = (np.asarray(one)[:, : tokens.size] for one in read)
    pieces = pieces_apart(model, ids)
    return LogitLens(ids, pieces, probs, np.maximum(kl, 0), after[:, : tokens.size - 1])


@dataclass(frozen=True)
class _Lens:
    """Candidates, KL and the next token's probability, of the logits after one layer.

    Called with logits [N, V], the whole model's [N, V] and the tokens that follow [N]; gives
    candidates and their probabilities [N, C], KL from the whole model's distribution [N],
    probability of the tokens that follow [N].
    """

    count: int

    def __call__(
        self, logits: jax.Array, final: jax.Array, following: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        found = jax.nn.log_softmax(logits.astype(jnp.float32))
        whole = jax.nn.log_softmax(final)
        top, ids = largest(found, self.count)
        kl = jnp.sum(jnp.exp(whole) * (whole - found), axis=-1)
        after = jnp.take_along_axis(found, following[:, None], axis=-1)[:, 0]
        return ids.astype(jnp.int32), jnp.exp(top), kl, jnp.exp(after)
