"""Memory that each device of a ("data", "model") mesh takes, without the devices or the weights.

Shapes come from `jax.eval_shape` and `jax.make_jaxpr` on the program itself, their
split from `grok.engine.sharding.partition`: the plan cannot drift from the code. Counted on
one device:

- weights: its share of each, int8 with bfloat16 scales as released, others float32;
- keys and values of every layer for all tokens, counted whole (a compiler may split them);
- what one layer, or the logits, holds at its peak, every intermediate counted whole and
  as if none were fused with the next: an estimate of what the compiled program takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, NamedSharding

from grok.architectures import forward
from grok.checkpoints.grok1 import (
    EMBEDDING,
    FINAL_NORM,
    expected_shape,
    is_matrix,
    layer_path,
    tensor_paths,
)
from grok.checkpoints.tensor_file import QuantizedWeight8bit
from grok.config import GrokConfig
from grok.engine.sharding import partition
from grok.errors import DeviceError, GrokError

GROUPED = ("moe/linear_1/w", "multi_head_attention/linear/w")
GROUPS = 8
GPU_BYTES = 80_000_000_000


@dataclass(frozen=True)
class MeshPlan:
    """Bytes on each device of one mesh; all devices hold equally much.

    Attributes:
        mesh: (data, model) sizes.
        n_tokens: of one sequence.
        weights_bytes: the device's share of all weights.
        cache_bytes: keys and values of all layers.
        working_bytes: about what a pass holds besides, at its peak.
    """

    mesh: tuple[int, int]
    n_tokens: int
    weights_bytes: int
    cache_bytes: int
    working_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.cache_bytes + self.working_bytes

    def fits(self, device_bytes: int = GPU_BYTES) -> bool:
        """Whether no device takes more than `device_bytes`."""
        return self.total_bytes <= device_bytes


def mesh_plan(config: GrokConfig, mesh: tuple[int, int], n_tokens: int = 2048) -> MeshPlan:
    """What each device of a (data, model) mesh holds for one sequence of `n_tokens`.

    Raises:
        DeviceError: the mesh cannot be made for this model.
        GrokError: no tokens, or more than the context.
    """
    data, model = mesh
    if min(mesh) < 1 or config.n_experts % model:
        raise DeviceError(
            f"A mesh of {data} x {model} cannot hold this model: both sizes must be 1 or more and "
            f"the second must divide its {config.n_experts} experts."
        )
    if not 1 <= n_tokens <= config.context_length:
        raise GrokError(
            f"The number of tokens is {n_tokens}; expected 1 to {config.context_length}."
        )
    weights = 0
    abstract = AbstractMesh(mesh, ("data", "model"))
    for path in tensor_paths(config.n_layers):
        for array in jax.tree.leaves(parameter(config, path)):
            spec = partition(config, path, array.shape, abstract)  # type: ignore[arg-type]
            split = NamedSharding(abstract, spec)
            weights += _bytes(split.shard_shape(array.shape), array.dtype)
    cache = config.n_layers * _tree_bytes(_cache(config, n_tokens))
    return MeshPlan(mesh, n_tokens, weights, cache, working_bytes(config, n_tokens))


def mesh_plans(config: GrokConfig, n_devices: int = 8, n_tokens: int = 2048) -> list[MeshPlan]:
    """`mesh_plan` of every mesh that `n_devices` can form, most parallel experts first."""
    shapes = [
        (n_devices // model, model)
        for model in range(n_devices, 0, -1)
        if n_devices % model == 0 and config.n_experts % model == 0
    ]
    return [mesh_plan(config, shape, n_tokens) for shape in shapes]


def parameter(config: GrokConfig, path: str) -> Any:
    """Shape and dtype of the parameter at `path` as released, without its values."""
    shape = expected_shape(config, path)
    if not is_matrix(path):
        return jax.ShapeDtypeStruct(shape, jnp.float32)
    groups = GROUPS if path.endswith(GROUPED) and shape[-2] % GROUPS == 0 else 1
    scales = (*shape[:-2], groups, shape[-1])
    return QuantizedWeight8bit(
        jax.ShapeDtypeStruct(shape, jnp.int8),  # type: ignore[arg-type]
        jax.ShapeDtypeStruct(scales, jnp.bfloat16),  # type: ignore[arg-type]
    )


def _layer_parameters(config: GrokConfig) -> Mapping[str, Any]:
    prefix = layer_path(0, "")
    paths = [path for path in tensor_paths(1) if path.startswith(prefix)]
    return {path.removeprefix(prefix): parameter(config, path) for path in paths}


def _cache(config: GrokConfig, n_tokens: int) -> Any:
    return jax.eval_shape(lambda: forward.empty_cache(config, 1, n_tokens, jnp.bfloat16))


@lru_cache(maxsize=16)
def working_bytes(config: GrokConfig, n_tokens: int) -> int:
    """About what a layer, or the logits, of one sequence holds besides weights and cache."""
    stream = jax.ShapeDtypeStruct((1, n_tokens, config.d_model), jnp.float32)
    layer = jax.make_jaxpr(lambda *args: forward.layer(config, *args))(
        _layer_parameters(config),
        stream,
        jax.ShapeDtypeStruct((), jnp.int32),
        jax.ShapeDtypeStruct((1, n_tokens), jnp.bool_),
        _cache(config, n_tokens),
    )
    ends = {path: parameter(config, path) for path in (EMBEDDING, FINAL_NORM)}

    def head(params: Any, h: jax.Array) -> jax.Array:
        logits = forward.unembed(config, params, h, jnp.bfloat16)
        return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)

    last = jax.make_jaxpr(head)(ends, stream)
    return max(_peak(layer.jaxpr), _peak(last.jaxpr)) + _tree_bytes(stream)


def _peak(program: Any) -> int:
    """Most bytes that the intermediates of a jaxpr take at once, freed after their last use."""
    last: dict[Any, int] = {}
    for i, step in enumerate(program.eqns):
        last.update((value, i) for value in step.invars if not hasattr(value, "val"))
    kept = {value for value in program.outvars if not hasattr(value, "val")}
    live, peak = 0, 0
    sizes: dict[Any, int] = {}
    for i, step in enumerate(program.eqns):
        made = {value: _bytes(value.aval.shape, value.aval.dtype) for value in step.outvars}
        inner = max((_peak(part) for part in _programs(step.params.values())), default=0)
        peak = max(peak, live + max(sum(made.values()), inner))
        sizes |= made
        live += sum(made.values())
        for value in _ending(step, i, last, kept):
            live -= sizes.pop(value, 0)
    return peak


def _ending(step: Any, i: int, last: Mapping[Any, int], kept: set[Any]) -> list[Any]:
    """Values that no later step reads."""
    values = {value for value in (*step.invars, *step.outvars) if not hasattr(value, "val")}
    return [value for value in values if value not in kept and last.get(value, i) == i]


def _programs(values: Iterable[Any]) -> list[Any]:
    """The jaxprs among the parameters of a step."""
    found: list[Any] = []
    for value in values:
        if hasattr(value, "eqns"):
            found.append(value)
        elif hasattr(value, "jaxpr"):
            found.append(value.jaxpr)
        elif isinstance(value, tuple | list):
            found += _programs(value)
    return found


def _bytes(shape: Sequence[int], dtype: Any) -> int:
    count = jnp.dtype(dtype).itemsize
    for size in shape:
        count *= size
    return int(count)


def _tree_bytes(tree: Any) -> int:
    return sum(_bytes(array.shape, array.dtype) for array in jax.tree.leaves(tree))
