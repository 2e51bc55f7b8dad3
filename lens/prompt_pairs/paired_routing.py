"""Two runs beside each other, token by token: where their routing differs.

Axes: layer (L), pair (A, as aligned), compared pair (P), expert (E), choice (K).

Compared are pairs of the same token. Tokens of a common start are left out where both runs are
of one model without changes: nothing differs before them, so nothing can differ in them.
Whether a difference is more than chance: `lens.prompt_pairs.paired_tests`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lens.errors import LensError
from lens.prompt_pairs.alignment import SAME, Alignment
from lens.traces import routing
from lens.traces.protocols import RoutedTokens
from lens.traces.routing import overlap


def largest_gate(trace: RoutedTokens) -> Float[np.ndarray, "layer token"]:
    """The largest probability that the router gives, whether or not that expert is used."""
    return np.asarray(trace.router_probs, dtype=np.float64).max(axis=-1)


QUANTITIES: Mapping[str, Callable[[RoutedTokens], np.ndarray]] = {
    "margin": routing.margin,
    "lead": routing.lead,
    "entropy": routing.entropy,
    "top1_prob": largest_gate,
}


@dataclass(frozen=True, eq=False)
class Paired:
    """Two runs and which of their tokens belong together.

    Attributes:
        first, second: the runs.
        alignment: of their tokens.
        pairs: the pairs that are compared, in order.
        common_start: pairs left out because nothing differs up to there.
        changed_layers: rows whose routers an intervention changes in the second run. A difference
            there is made, not found, so nothing is tested in them.
    """

    first: RoutedTokens
    second: RoutedTokens
    alignment: Alignment
    pairs: Int[np.ndarray, " pair"]
    common_start: int
    changed_layers: tuple[int, ...] = ()

    @property
    def tested(self) -> Bool[np.ndarray, " layer"]:
        """The layers whose differences are found, not made."""
        return ~np.isin(np.arange(self.n_layers), self.changed_layers)

    @property
    def at(self) -> tuple[np.ndarray, np.ndarray]:
        """Places of the compared tokens in the first and in the second run."""
        return self.alignment.first[self.pairs], self.alignment.second[self.pairs]

    @property
    def n_layers(self) -> int:
        return int(self.first.router_logits.shape[0])

    @property
    def n_experts(self) -> int:
        return int(self.first.router_logits.shape[2])


def paired(
    first: RoutedTokens,
    second: RoutedTokens,
    alignment: Alignment,
    *,
    leave_out_start: bool = True,
    changed_layers: Sequence[int] = (),
) -> Paired:
    """Two runs whose same tokens are to be compared.

    Args:
        first, second: of models of one shape.
        alignment: of their tokens.
        leave_out_start: pairs before the first change of the text are not compared; False where
            one run was made under an intervention, which may change every token.
        changed_layers: rows of the layers where that intervention is.

    Raises:
        LensError: the runs have other layers or experts, or the alignment is of other texts.
    """
    shapes = [run.router_logits.shape for run in (first, second)]
    if shapes[0][::2] != shapes[1][::2]:
        raise LensError(
            f"Two runs: {shapes[0][0]} layers of {shapes[0][2]} experts beside {shapes[1][0]} of "
            f"{shapes[1][2]}; expected runs of one model. Run both texts on the same model."
        )
    for name, places, shape in zip(
        ("first", "second"), (alignment.first, alignment.second), shapes, strict=True
    ):
        if np.count_nonzero(places >= 0) != shape[1]:
            raise LensError(
                f"Two runs, {name}: {shape[1]} tokens, but {np.count_nonzero(places >= 0)} are "
                "aligned. Align the tokens of these runs."
            )
    start = alignment.common_start if leave_out_start else 0
    pairs = np.flatnonzero(alignment.kind == SAME)
    changed = tuple(int(layer) for layer in changed_layers)
    return Paired(first, second, alignment, pairs[pairs >= start], start, changed)


# --- what differs, cell by cell ---------------------------------------------------


def _on_pairs(
    runs: Paired, values: Callable[[RoutedTokens, np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of the same token, the common start included, and both runs' values there."""
    pairs = runs.alignment.same
    return (
        pairs,
        values(runs.first, runs.alignment.first[pairs]),
        values(runs.second, runs.alignment.second[pairs]),
    )


def difference(runs: Paired, what: str) -> Float[np.ndarray, "layer pair"]:
    """A quantity of the first run less that of the second; not a number where tokens differ.

    Args:
        what: "margin", "lead", "entropy" or "top1_prob".

    Raises:
        LensError: another name; or a quantity that this model does not have.
    """
    if what not in QUANTITIES:
        raise LensError(f"Difference: found '{what:.40}'; expected one of {', '.join(QUANTITIES)}.")
    quantity = QUANTITIES[what]
    with np.errstate(invalid="ignore"):  # −∞ − −∞, where several experts are banned
        pairs, one, other = _on_pairs(runs, lambda run, at: quantity(run)[:, at])
        found = np.full((runs.n_layers, runs.alignment.n_pairs), np.nan)
        found[:, pairs] = one - other
    found[~np.isfinite(found)] = np.nan
    return found


def kept_experts(runs: Paired) -> Float[np.ndarray, "layer pair"]:
    """Share of a token's experts that both runs choose; not a number where tokens differ.

    |A ∩ B| / max(|A|, |B|). Reading it: 1 where the token goes to the same experts in both,
    0 where it shares none. Two unrelated even choices share K / E on average, 25 % for 2 of 8.
    """
    pairs, one, other = _on_pairs(runs, lambda run, at: run.experts[:, at])
    found = np.full((runs.n_layers, runs.alignment.n_pairs), np.nan)
    found[:, pairs] = overlap(one, other)
    return found
