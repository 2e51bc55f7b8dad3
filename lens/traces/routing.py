"""Statistics of a trace: which experts a text used, how evenly, and how close the choices were.

Axes: layer (L), token (T), expert (E), choice (K, the experts a token was sent to).
Most functions take `tokens`, a slice of the token axis: `prompt_tokens(trace)`
and `generated_tokens(trace)` keep the text that was given apart from the text
that was made. Chance levels treat tokens as independent, which neighbouring
tokens of a text are not: a value outside its band says that the choices are
uneven for *this text*, not that the experts differ in general.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from lens.chosen_by import shares
from lens.errors import LensError
from lens.recipe.steps import remembered
from lens.traces.coselection import CoSelection, coselection
from lens.traces.protocols import RoutedText, RoutedTokens
from lens.traces.repeats import RepeatRate, repeat_rate
from lens.traces.trace import Trace
from lens.words import fixed, percent

__all__ = [
    "Beside",
    "CoSelection",
    "Paths",
    "RepeatRate",
    "beside_shared",
    "coselection",
    "effective_experts",
    "entropy",
    "gate_share",
    "generated_tokens",
    "lead",
    "load",
    "load_interval",
    "margin",
    "paths",
    "prompt_tokens",
    "repeat_rate",
    "shared_in_words",
]

ALL = slice(None)
ALONG = 0.5  # cosine from which two parts are said to point along each other, or against


def prompt_tokens(trace: Trace) -> slice:
    """The tokens that were given."""
    return slice(0, trace.prompt_length)


def generated_tokens(trace: Trace) -> slice:
    """The tokens that were generated; may be none."""
    return slice(trace.prompt_length, None)


def _chosen(
    trace: RoutedTokens, tokens: slice, least: int = 1
) -> tuple[Int[np.ndarray, "layer token choice"], int]:
    """The chosen experts of a part of the trace, and the number of experts there are."""
    experts = trace.experts[:, tokens]
    if experts.shape[1] < least:
        raise LensError(
            f"Routing statistics: {experts.shape[1]} tokens in this part of the trace; expected at "
            f"least {least}. Choose a longer text or another part."
        )
    return experts, trace.router_logits.shape[2]


def _counts(experts: np.ndarray, n_experts: int) -> Int[np.ndarray, "layer expert"]:
    """Number of (token, choice) assignments that each expert of each layer received."""
    n_layers = experts.shape[0]
    flat = experts.reshape(n_layers, -1) + n_experts * np.arange(n_layers)[:, None]
    counts = np.bincount(flat.ravel(), minlength=n_layers * n_experts)
    return counts.reshape(n_layers, n_experts)


# --- how evenly the experts are used --------------------------------------------


@remembered
def load(trace: RoutedTokens, *, tokens: slice = ALL) -> Float[np.ndarray, "layer expert"]:
    """Share of the (token, choice) assignments that each expert received.

    Reading it: shares of a layer sum to 1; even use is 1 / n_experts, and
    1 / top_k is the most there can be (an expert chosen for every token).
    `load_interval` says how far even use strays by chance.

    Raises:
        LensError: no tokens in the part asked for.
    """
    experts, n_experts = _chosen(trace, tokens)
    return _counts(experts, n_experts) / (experts.shape[1] * experts.shape[2])


@remembered
def load_interval(
    n_tokens: int,
    top_k: int,
    n_experts: int,
    *,
    level: float = 0.95,
    comparisons: int = 1,
) -> tuple[float, float]:
    """The band of loads that even, independent choices give an expert.

    A token picks each expert with probability K/E, so the tokens that pick one
    are Binomial(T, K/E), exactly; the band holds at least `level` of it, with at
    most (1 - level) / 2 beyond each end. With several experts in view some leave
    their band by chance: one in twenty at 95 %, unless `comparisons` gives the
    number looked at together (Bonferroni).

    Returns:
        Lowest and highest share, in the units of `load`.
    """
    from scipy.special import bdtr, bdtrc

    if not (n_tokens >= 1 and 1 <= top_k <= n_experts and 0 < level < 1 and comparisons >= 1):
        raise LensError(
            f"Load interval: found {n_tokens} tokens, top_k {top_k}, {n_experts} experts, level "
            f"{level}, {comparisons} comparisons; expected at least one token, top_k at most the "
            "number of experts and a level between 0 and 1."
        )
    tail = (1 - level) / 2 / comparisons
    count, p = np.arange(n_tokens + 1), top_k / n_experts
    low = np.argmax(bdtr(count, n_tokens, p) >= tail)  # P(at most count)
    high = np.argmax(bdtrc(count, n_tokens, p) <= tail)  # P(more than count)
    return float(low) / (n_tokens * top_k), float(high) / (n_tokens * top_k)


@remembered
def effective_experts(trace: RoutedTokens, *, tokens: slice = ALL) -> Float[np.ndarray, " layer"]:
    """exp(H) of the load: the number of equally used experts that would be as uneven.

    Reading it: from top_k (the same experts for every token) to n_experts (even
    use). A short text lies below n_experts by chance alone, by about a share
    (E − K) / (2 T K) when choices are even.
    """
    shares = load(trace, tokens=tokens)
    return np.exp(-np.where(shares > 0, shares * np.log(np.where(shares > 0, shares, 1)), 0).sum(1))


# --- how close the choices were -------------------------------------------------


@remembered
def entropy(trace: RoutedTokens) -> Float[np.ndarray, "layer token"]:
    """Entropy of each token's distribution over all experts, in nats.

    Reading it: 0 when one expert takes everything, ln(n_experts) (2.08 for 8)
    when the router does not prefer any.
    """
    p = shares(trace.router_probs)
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=-1)


def _ordered(trace: RoutedTokens) -> np.ndarray:
    """What experts are chosen by, the largest first: logits, or corrected scores."""
    values = trace.router_logits if trace.choice_values is None else trace.choice_values
    return np.sort(np.asarray(values, dtype=np.float64), axis=-1)[..., ::-1]


@remembered
def margin(trace: RoutedTokens) -> Float[np.ndarray, "layer token"]:
    """Margin of the choice of experts: z_K − z_{K+1} of the ordered router logits.

    Where a family chooses by other values, such as corrected scores, of those. With two experts a
    token, the second against the third largest. Adding a number to all logits leaves it
    unchanged. Reading it: a change smaller than the margin cannot change which experts are chosen;
    0 is a tie.

    Raises:
        LensError: every expert is used by every token, so nothing was chosen.
    """
    top_k, n_experts = trace.experts.shape[2], trace.router_logits.shape[2]
    if top_k >= n_experts:
        raise LensError(
            f"Margin: all {n_experts} experts are used by every token, so no choice was close. "
            "Look at the lead instead."
        )
    z = _ordered(trace)
    return z[..., top_k - 1] - z[..., top_k]


@remembered
def lead(trace: RoutedTokens) -> Float[np.ndarray, "layer token"]:
    """z_1 − z_2 of the ordered router logits: what decides the mix of the two.

    Reading it: 0 mixes the two evenly; the first choice's share of the two is
    1 / (1 + e^−lead), so 2.2 gives it nine tenths.
    """
    z = _ordered(trace)
    return z[..., 0] - z[..., 1]


@remembered
def gate_share(trace: RoutedTokens) -> Float[np.ndarray, "layer token choice"]:
    """Each chosen expert's part of its token's mix: p_k / Σ p over the chosen.

    Grok-1 does not renormalise its gates, but the norm after the experts cancels
    their sum, so the mix is what reaches the residual stream.
    """
    gates = np.asarray(trace.gates, dtype=np.float64)
    total = gates.sum(axis=-1, keepdims=True)
    even = np.full_like(gates, 1 / gates.shape[-1])
    return np.divide(gates, total, out=even, where=total > 0)


# --- from layer to layer --------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Paths:
    """Counts of tokens between the first choices of consecutive layers of a list.

    Attributes:
        layers: rows of the trace, in order.
        counts: `counts[i, a, b]`, tokens whose first choice is a in layers[i] and b
            in layers[i + 1].
        expected: the same if the two layers chose independently: n_a · n_b / T.
        n_tokens: tokens counted.
    """

    layers: tuple[int, ...]
    counts: Int[np.ndarray, "step expert expert"]
    expected: Float[np.ndarray, "step expert expert"]
    n_tokens: int


@remembered
def paths(
    trace: RoutedTokens, layers: Sequence[int] | None = None, *, tokens: slice = ALL
) -> Paths:
    """Transitions of first choices along `layers` (rows of the trace; default all).

    Expert numbers carry no meaning across layers: a strong cell says that one
    group of tokens stays together, not that one expert continues another.

    Raises:
        LensError: fewer than two layers, one the trace does not have, or no tokens.
    """
    experts, n_experts = _chosen(trace, tokens)
    n_layers, n_tokens, _ = experts.shape
    rows = tuple(range(n_layers)) if layers is None else tuple(int(layer) for layer in layers)
    if len(rows) < 2 or any(not 0 <= row < n_layers for row in rows):
        raise LensError(
            f"Paths: found the layers {list(rows)[:20]}; expected at least two, from 0 to "
            f"{n_layers - 1}."
        )
    first = experts[list(rows), :, 0]
    counts = np.stack(
        [
            np.bincount(a * n_experts + b, minlength=n_experts**2).reshape(n_experts, n_experts)
            for a, b in zip(first[:-1], first[1:], strict=True)
        ]
    )
    expected = counts.sum(axis=2)[:, :, None] * counts.sum(axis=1)[:, None, :] / n_tokens
    return Paths(rows, counts, expected, n_tokens)


def overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """|A ∩ B| / max(|A|, |B|) of expert lists [..., K]; negative entries are empty places."""
    used = one >= 0
    both = ((one[..., :, None] == other[..., None, :]) & used[..., :, None]).sum(axis=(-2, -1))
    most = np.maximum(used.sum(axis=-1), (other >= 0).sum(axis=-1))
    return both / np.maximum(most, 1)


# --- the expert that every token passes through ---------------------------------------


class Beside(NamedTuple):
    """The two parts of a mixture's sum, layer by layer.

    chosen, shared: lengths of what the chosen experts add together, and of what the shared one
        adds; cosine: between the two, 1 along each other, 0 at right angles, −1 against.
    """

    chosen: Float[np.ndarray, "layer token"]
    shared: Float[np.ndarray, "layer token"]
    cosine: Float[np.ndarray, "layer token"]

    @property
    def share(self) -> Float[np.ndarray, "layer token"]:
        """The shared expert's part of both lengths together, 0 to 1; ½: as long as the chosen's."""
        both = self.chosen + self.shared
        found: np.ndarray = self.shared / np.where(both > 0, both, 1)
        return found


def beside_shared(trace: RoutedText) -> Beside | None:
    """What a trace says of the shared expert; None where its model has none, or it says nothing."""
    parts = trace.beside_shared
    return None if parts is None else Beside(*np.moveaxis(np.asarray(parts), -1, 0))


def shared_in_words(trace: RoutedText, layer: int, token: int) -> tuple[str, str] | None:
    """How much the shared expert adds for a token in a layer, and the numbers; None without one."""
    found = beside_shared(trace)
    if found is None:
        return None
    chosen, shared = float(found.chosen[layer, token]), float(found.shared[layer, token])
    cosine, share = float(found.cosine[layer, token]), found.share[layer]
    way = "along" if cosine > ALONG else "against" if cosine < -ALONG else "across"
    much = (
        f"has {percent(shared / chosen)} of the length of what the chosen ones add together, and "
        f"points {way} it"
        if chosen > 0
        else "is all there is: the chosen ones add nothing"
    )
    others = percent(float(np.median(share)))
    return (
        f"Every token also passes through the **shared expert**: what it adds here {much}.",
        f"Lengths {fixed(shared, 3)} (shared) and {fixed(chosen, 3)} (chosen), cosine "
        f"{fixed(cosine, 2)}. Of both lengths together the shared expert's is "
        f"{percent(float(share[token]))}; the median of this text's tokens in this layer is "
        f"{others}.",
    )
