"""A layer cut around its experts, which are computed elsewhere in between.

Axes: B sequences, T tokens, N token rows that count, K experts a token, D d_model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from grok.architectures.architecture import Architecture
from grok.engine.compiled import SECOND_SITES, first_half_pass, second_half_pass
from grok.engine.interfaces import Done, Part
from grok.interventions.hooks import earlier_references, is_hooked


class HalfLayer:
    """One batch between the two halves of a layer.

    Args:
        architecture: of the layer.
        dtype: of activations.
        params: the layer's weights but its experts'.
        part: the batch.

    Attributes:
        apart: whether the contributions of single experts are looked at.
    """

    def __init__(
        self, architecture: Architecture, dtype: str, params: Mapping[str, Any], part: Part
    ) -> None:
        self._architecture, self._dtype = architecture, dtype
        self._params, self._part = params, part
        self._second = {s: e for s, e in part.edits.items() if s in SECOND_SITES}
        first = {s: e for s, e in part.edits.items() if s not in SECOND_SITES}
        self._needed = earlier_references(part.edits, SECOND_SITES)
        read_or_kept = frozenset(part.keep) | frozenset(self._needed)
        self._stream, read, choice, self._cache, self._kept = first_half_pass(
            architecture,
            params,
            part.h,
            part.start,
            part.key_is_token,
            part.cache,
            first,
            tuple(s for s in sorted(read_or_kept) if s not in SECOND_SITES),
        )
        self._choice = jax.device_get(choice)
        self._read = np.asarray(read)  # [B, T, D]
        self.apart = is_hooked("moe.contribution", self._second, part.keep)

    def rows(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the experts are given: rows that count [N, D], experts [N, K], gates [N, K]."""
        flat = self._read.reshape(-1, self._read.shape[-1])
        k = self._choice.experts.shape[-1]
        experts, gates = self._choice.experts.reshape(-1, k), self._choice.gates.reshape(-1, k)
        real = self._real()
        return flat[real], experts[real], gates[real]

    def _real(self) -> np.ndarray:
        real = self._part.real
        shape = self._read.shape[:2]
        return np.ones(shape, bool).ravel() if real is None else np.asarray(real).ravel()

    def finished(self, out: np.ndarray) -> Done:
        """The batch after the layer, of its rows' outputs [N, D] or [N, K, D]."""
        own_k = self._choice.experts.shape[-1]
        if out.ndim == 3 and self.apart:
            out = out[:, :own_k]
        elif out.ndim == 3:
            out = out.sum(axis=1)
        filled = np.zeros((self._read.shape[0] * self._read.shape[1], *out.shape[1:]), np.float32)
        filled[self._real()] = out
        h, kept, beside = second_half_pass(
            self._architecture,
            self._params,
            self._stream,
            filled.reshape(*self._read.shape[:2], *out.shape[1:]),
            self._part.start,
            self._dtype,
            self._second,
            {site: self._kept[site] for site in self._needed},
            tuple(s for s in self._part.keep if s in SECOND_SITES),
        )
        wanted = {site: value for site, value in self._kept.items() if site in self._part.keep}
        return Done(h, self._choice._replace(beside=beside), self._cache, {**wanted, **kept})


def around_experts(
    architecture: Architecture,
    dtype: str,
    params: Mapping[str, Any],
    parts: Iterable[Part],
    experts: Callable[[np.ndarray, np.ndarray, np.ndarray, bool], np.ndarray],
) -> Iterator[Done]:
    """A layer whose experts are computed once for the rows of all batches together.

    Args:
        architecture: of the layer.
        dtype: of activations.
        params: the layer's weights but its experts'.
        parts: the batches.
        experts: gives, of rows [N, D], experts [N, K] and gates [N, K], the weighted sums [N, D],
            or where its last argument is False the contributions [N, K, D].
    """
    halves = [HalfLayer(architecture, dtype, params, part) for part in parts]
    rows = [half.rows() for half in halves]
    if not rows:
        return
    x, chosen, gates = (np.concatenate(one) for one in zip(*_same_k(rows), strict=True))
    out = experts(x, chosen, gates, not any(half.apart for half in halves))
    first = 0
    for half, (own, _, _) in zip(halves, rows, strict=True):
        done = half.finished(out[first : first + len(own)])
        first += len(own)
        yield done


def _same_k(
    rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows of several batches with as many experts each; -1 stands for none."""
    k = max(experts.shape[1] for _, experts, _ in rows)

    def filled(values: np.ndarray, fill: float) -> np.ndarray:
        return np.pad(values, [(0, 0), (0, k - values.shape[1])], constant_values=fill)

    return [(x, filled(experts, -1), filled(gates, 0)) for x, experts, gates in rows]
