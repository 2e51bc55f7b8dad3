"""Arrays of a trace, checked: their kind and shape, and numbers that fit each other.

Axes: layer (L), token (T), expert (E), choice (K), candidate (C), as in `lens.traces.trace`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import softmax

from lens.errors import LensError

ADVICE = "Save the trace again with `python -m grok.run --trace`."
MAX_PIECE = 1024
# How far stored numbers may disagree: above the rounding of bfloat16, below any real mistake.
TOLERANCE = 0.01


def floats(array: Any, name: str, rank: int, axes: str, *, banned: bool = False) -> np.ndarray:
    """A read-only float32 array of finite numbers; with `banned` minus infinity may stand in it."""
    array = np.asarray(array)
    if array.dtype.kind != "f" or array.ndim != rank:
        raise LensError(
            f"{name}: found shape {array.shape} of {array.dtype}; expected {axes} of float32. "
            f"{ADVICE}"
        )
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32).view()
    bad = ~np.isfinite(array)
    if banned:  # the logit of an expert that nobody may choose
        bad &= ~np.isneginf(array)
    if bad.any():
        raise LensError(
            f"{name}: {int(bad.sum())} of {array.size} values are not finite, the first at index "
            f"{_first(bad)}; expected numbers only. {ADVICE}"
        )
    array.flags.writeable = False
    return array


def whole_numbers(array: Any, name: str, rank: int, axes: str, limit: int) -> np.ndarray:
    """A read-only int32 array of whole numbers from 0 up to the limit, which is left out."""
    array = np.asarray(array)
    if array.dtype.kind not in "iu" or array.ndim != rank:
        raise LensError(
            f"{name}: found shape {array.shape} of {array.dtype}; expected {axes} of int32. "
            f"{ADVICE}"
        )
    bad = (array < 0) | (array >= limit)
    if bad.any():
        at = _first(bad)
        raise LensError(
            f"{name}: found {array[at]} at index {at}; expected whole numbers from 0 to "
            f"{limit - 1}. {ADVICE}"
        )
    array = np.ascontiguousarray(array, dtype=np.int32).view()
    array.flags.writeable = False
    return array


def texts(array: Any, name: str) -> np.ndarray:
    """A read-only unicode array of texts of bounded length."""
    array = np.asarray(array)
    if array.dtype.kind != "U":
        raise LensError(
            f"{name}: the dtype is {array.dtype}; expected unicode texts, not objects. {ADVICE}"
        )
    if array.dtype.itemsize > 4 * MAX_PIECE:
        raise LensError(
            f"{name}: texts of up to {array.dtype.itemsize // 4} characters; at most {MAX_PIECE} "
            f"are read. {ADVICE}"
        )
    array = np.array(array, order="C")
    array.flags.writeable = False
    return array


def check_shape(array: np.ndarray, name: str, shape: tuple[int, ...]) -> None:
    """Refuses an array whose shape does not fit the others."""
    if array.shape != shape:
        raise LensError(
            f"{name}: the shape is {array.shape}; the other arrays need {shape}. {ADVICE}"
        )


def _first(bad: Any) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(bad)[0])


def check_probabilities(logits: np.ndarray, probs: np.ndarray, score: str = "softmax") -> None:
    """Refuses probabilities that are not the softmax, or sigmoid, of the logits beside them."""
    outside = (probs < 0) | (probs > 1 + TOLERANCE)
    if outside.any():
        at = _first(outside)
        raise LensError(
            f"router_probs: found {probs[at]:.4g} at index {at}; expected probabilities. {ADVICE}"
        )
    if score == "sigmoid":
        with np.errstate(over="ignore"):
            wrong = (np.abs(1 / (1 + np.exp(-logits)) - probs) > TOLERANCE).any(axis=-1)
        if wrong.any():
            at = _first(wrong)
            raise LensError(
                f"router_probs: layer row {at[0]}, token {at[1]}: they are not the sigmoid of "
                f"router_logits. {ADVICE}"
            )
        return
    total = probs.sum(axis=-1)
    wrong = np.abs(total - 1) > TOLERANCE
    if wrong.any():
        at = _first(wrong)
        raise LensError(
            f"router_probs: layer row {at[0]}, token {at[1]}: they sum to {total[at]:.4g}; "
            f"expected 1. {ADVICE}"
        )
    wrong = (np.abs(softmax(logits, axis=-1) - probs) > TOLERANCE).any(axis=-1)
    if wrong.any():
        at = _first(wrong)
        raise LensError(
            f"router_probs: layer row {at[0]}, token {at[1]}: they are not the softmax of "
            f"router_logits. {ADVICE}"
        )


def check_choices(
    probs: np.ndarray,
    experts: np.ndarray,
    gates: np.ndarray,
    *,
    edited: bool,
    plain_gates: bool = True,
    chosen_by: np.ndarray | None = None,
) -> None:
    """Refuses chosen experts that are not the likeliest, or gates of other experts.

    An intervention may put any experts and gates; then they only have to be different ones.

    Args:
        probs: scores of all experts [L, T, E].
        experts, gates: of the chosen [L, T, K].
        edited: whether the run was changed.
        plain_gates: whether gates are the scores of the chosen.
        chosen_by: what they are the largest of; None: the scores.
    """
    ordered = np.sort(experts, axis=-1)
    twice = (ordered[..., 1:] == ordered[..., :-1]).any(axis=-1)
    if twice.any():
        at = _first(twice)
        raise LensError(
            f"experts: layer row {at[0]}, token {at[1]}: found {experts[at].tolist()}; expected "
            f"different experts. {ADVICE}"
        )
    if edited:
        return
    if plain_gates:
        _check_gates(probs, experts, gates)
    elif (gates < 0).any():
        at = _first((gates < 0).any(axis=-1))
        raise LensError(
            f"gates: layer row {at[0]}, token {at[1]}: found {gates[at].tolist()}; expected "
            f"weights of 0 or more. {ADVICE}"
        )
    values = probs if chosen_by is None else chosen_by
    own = np.take_along_axis(values, experts, axis=-1)
    rest = values.copy()
    np.put_along_axis(rest, experts, -np.inf, axis=-1)
    wrong = (rest > own.min(axis=-1, keepdims=True) + TOLERANCE).any(axis=-1)
    if wrong.any():
        at = _first(wrong)
        raise LensError(
            f"experts: layer row {at[0]}, token {at[1]}: {experts[at].tolist()} are not the "
            f"likeliest experts. {ADVICE}"
        )


def _check_gates(probs: np.ndarray, experts: np.ndarray, gates: np.ndarray) -> None:
    """Refuses gates that do not fall, or are not the scores of the chosen."""
    rising = (gates[..., 1:] > gates[..., :-1]).any(axis=-1)
    if rising.any():
        at = _first(rising)
        raise LensError(
            f"gates: layer row {at[0]}, token {at[1]}: found {gates[at].tolist()}; expected the "
            f"largest first. {ADVICE}"
        )
    wrong = (np.abs(np.take_along_axis(probs, experts, axis=-1) - gates) > TOLERANCE).any(axis=-1)
    if wrong.any():
        at = _first(wrong)
        raise LensError(
            f"gates: layer row {at[0]}, token {at[1]}: they differ from the probabilities of the "
            f"chosen experts {experts[at].tolist()}. {ADVICE}"
        )


def check_candidates(probs: np.ndarray) -> None:
    """Refuses probabilities of next tokens out of range, out of order, or above 1 in sum."""
    if probs.size == 0:
        return
    outside = (probs < 0) | (probs > 1 + TOLERANCE)
    outside[:, 1:] |= probs[:, 1:] > probs[:, :-1]
    outside[:, -1] |= probs.sum(axis=1) > 1 + TOLERANCE
    if outside.any():
        token = _first(outside)[0]
        raise LensError(
            f"candidate_probs: token {token}: found {str(probs[token].tolist())[:120]}; expected "
            f"probabilities, the largest first, with a sum of at most 1. {ADVICE}"
        )
