"""The experts' part of a layer, on the host, of int8 weights as they come from disk.

Axes: N token rows, K experts a token, E experts, C rows of one expert, D d_model, F d_ff,
G groups of rows that share a scale.

An expert's three matrices come in pieces of rows, which lie together in the file, in the order
activated branch, linear branch, down projection. Each piece is multiplied and given back. What is
held of an expert is [C, F] twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from grok.architectures.architecture import ExpertProducts
from grok.checkpoints.tensor_offsets import TensorLocation
from grok.checkpoints.tensor_spec import TensorSpec, expert_array
from grok.errors import CheckpointError
from grok.streaming.int8_matmul import add_product
from grok.streaming.kept_code import compiled
from grok.streaming.read_ahead import Filled, Piece


class Rows(NamedTuple):
    """The key of a piece: rows `first` to `last` of one expert's matrix, as it is stored."""

    layer: int
    expert: int
    leaf: str
    first: int
    last: int


class Matrix(NamedTuple):
    """The experts' matrices of one kind in one layer.

    spec: what they are; tensors: where those that hold them lie; scales: [E, G, N] float32 of
    int8 ones.
    """

    spec: TensorSpec
    tensors: Mapping[str, TensorLocation]
    scales: np.ndarray | None

    def tensor(self, expert: int) -> TensorLocation:
        """The tensor that holds one expert's matrix."""
        return self.tensors[self.spec.names[expert if len(self.spec.names) > 1 else 0]]

    @property
    def group_rows(self) -> int:
        """Rows that share a scale."""
        rows = self.spec.shape[1]
        return rows if self.scales is None else rows // self.scales.shape[1]


def expert_pieces(
    layer: int,
    expert: int,
    spec: TensorSpec,
    tensors: Mapping[str, TensorLocation],
    most_bytes: int,
) -> Iterator[Piece]:
    """The pieces of one expert's matrix; none reaches over a group of rows with one scale."""
    array = expert_array(spec, tensors, expert)
    tensor = tensors[spec.names[expert if len(spec.names) > 1 else 0]]
    rows, columns = array.shape
    groups = 1 if tensor.scales is None else tensor.scales.shape[1]
    row_bytes = columns * array.dtype.itemsize
    step = max(1, most_bytes // row_bytes)
    group = rows // groups
    for top in range(0, rows, group):
        for first in range(top, top + group, step):
            last = min(first + step, top + group)
            key = Rows(layer, expert, spec.leaf, first, last)
            yield Piece(tensor, array.offset + first * row_bytes, (last - first) * row_bytes, key)


def mixture(
    x: np.ndarray,
    experts: np.ndarray,
    gates: np.ndarray,
    products: ExpertProducts,
    matrices: Mapping[str, Matrix],
    pieces: Callable[[int, str], Iterator[Filled]],
    *,
    summed: bool = True,
    after_expert: Callable[[int], None] = lambda expert: None,
) -> np.ndarray:
    """Gate-weighted sum of the chosen experts' outputs; as `moe.run_selected`, on the host.

    Rounded where the compiled model rounds, int8 times scale included, so the two differ by the
    order of their sums alone.

    Args:
        x: [N, D] in the activation dtype.
        experts: [N, K]; ids of E or more are skipped.
        gates: [N, K] float32.
        products: what an expert computes, of which matrices.
        matrices: by leaf.
        pieces: called with an expert and a leaf; gives its pieces, each to be used before the
            next.
        summed: False leaves the contributions of the K experts apart.
        after_expert: told each expert that is finished.

    Returns:
        [N, D] float32; [N, K, D] when not summed.

    Raises:
        CheckpointError: pieces that cannot be read, or float weights that are not finite.
    """
    n, d = x.shape
    k = experts.shape[1]
    n_experts, _, d_ff = matrices[products.activated].spec.shape
    activated = HOST_ACTIVATIONS[products.form.activation]
    wide = x.astype(np.float32)
    weight = gates.astype(x.dtype).astype(np.float32)
    out = np.zeros((n, d) if summed else (n, k, d), np.float32)
    for expert in range(n_experts):
        rows, slots = np.nonzero(experts == expert)
        if rows.size == 0:
            continue
        own = wide[rows]  # [C, D]
        first, second = (
            _product(own, d_ff, expert, leaf, matrices, pieces, _rounds(x.dtype, matrices[leaf]))
            for leaf in (products.activated, products.linear)
        )
        activated(first, second)  # hidden [C, F], in place
        del second
        result = _product(first, d, expert, products.down, matrices, pieces)
        result *= weight[rows, slots][:, None]
        if summed:
            np.add.at(out, rows, result)
        else:
            out[rows, slots] = result
        after_expert(expert)
    return out


def _product(
    x: np.ndarray,
    columns: int,
    expert: int,
    leaf: str,
    matrices: Mapping[str, Matrix],
    pieces: Callable[[int, str], Iterator[Filled]],
    rounds: bool = False,
) -> np.ndarray:
    """[C, columns] float32 of rows [C, K]; `rounds`: weights and result are bfloat16 values.

    Raises:
        CheckpointError: float weights that are not finite; of int8 ones the scales are looked at.
    """
    matrix = matrices[leaf]
    tensor = matrix.tensor(expert)
    out = np.zeros((len(x), columns), np.float32)
    for filled in pieces(expert, leaf):
        rows: Rows = filled.piece.key
        w = filled.bytes.view(tensor.weight.dtype).reshape(rows.last - rows.first, -1)
        scales = matrix.scales
        own = None if scales is None else scales[expert, rows.first // matrix.group_rows]
        if own is None and not np.isfinite(w).all():
            raise CheckpointError(
                f"{tensor.file}: expert {expert}, rows {rows.first} to {rows.last - 1}: "
                "values are not finite. The file is damaged; get it again."
            )
        if matrix.spec.transposed:
            out[:, rows.first : rows.last] = x @ w.astype(np.float32).T
        else:
            add_product(out, x[:, rows.first : rows.last], w, own, rounded=rounds)
    if rounds:
        _round_bfloat16(out)
    return out


def _rounds(activation: np.dtype, matrix: Matrix) -> bool:
    """Whether the compiled model's product of these is bfloat16."""
    tensor = matrix.tensor(0)
    weight = tensor.weight.dtype
    if tensor.scales is not None:
        weight = jnp.promote_types(tensor.scales.dtype, activation)
    return bool(jnp.promote_types(activation, weight) == ml_dtypes.bfloat16)


def _round_bfloat16(values: np.ndarray) -> None:
    _round_bits(values.reshape(-1).view(np.uint32))


@compiled(nogil=True)
def _round_bits(bits: np.ndarray) -> None:
    """float32 bits to the nearest bfloat16, ties to even; finite values."""
    for i in range(bits.size):
        b = bits[i]
        b += np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))
        bits[i] = b & np.uint32(0xFFFF0000)


@compiled(nogil=True, fastmath=True)
def _gelu_times(first: np.ndarray, second: np.ndarray) -> None:
    """first = gelu(first) * second, with the tanh approximation."""
    root = np.float32(0.7978845608028654)
    cubic = np.float32(0.044715)
    half, one = np.float32(0.5), np.float32(1.0)
    for r in range(first.shape[0]):
        for n in range(first.shape[1]):
            v = first[r, n]
            bent = np.tanh(root * (v + cubic * v * v * v))
            first[r, n] = half * v * (one + bent) * second[r, n]


@compiled(nogil=True, fastmath=True)
def _silu_times(first: np.ndarray, second: np.ndarray) -> None:
    """first = silu(first) * second."""
    one = np.float32(1.0)
    for r in range(first.shape[0]):
        for n in range(first.shape[1]):
            v = first[r, n]
            first[r, n] = v / (one + np.exp(-v)) * second[r, n]


HOST_ACTIVATIONS: Mapping[str, Callable[[np.ndarray, np.ndarray], None]] = {
    "gelu": _gelu_times,
    "silu": _silu_times,
}
"""first = activation(first) * second, in place; names as in `grok.architectures.moe`."""
