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

from grok.architectures.architecture import Architecture, all_specs
from grok.architectures.moe import run_selected
from grok.checkpoints.tensor_file import QuantizedWeight8bit
from grok.checkpoints.tensor_spec import TensorSpec
from grok.engine.compiled import logits_of
from grok.engine.sharding import partition
from grok.errors import DeviceError, GrokError
from grok.interventions.sites import NO_HOOK

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


def mesh_plan(architecture: Architecture, mesh: tuple[int, int], n_tokens: int = 2048) -> MeshPlan:
    """What each device of a (data, model) mesh holds for one sequence of `n_tokens`.

    Raises:
        DeviceError: the mesh cannot be made for this model.
        GrokError: no tokens, or more than the context.
    """
    config = architecture.config
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
    for spec in all_specs(architecture):
        for array in jax.tree.leaves(parameter(spec)):
            split = NamedSharding(abstract, partition(spec, array.shape, abstract))  # type: ignore[arg-type]
            weights += _bytes(split.shard_shape(array.shape), array.dtype)
    cache = config.n_layers * _tree_bytes(_cache(architecture, n_tokens))
    return MeshPlan(mesh, n_tokens, weights, cache, working_bytes(architecture, n_tokens))


def mesh_plans(
    architecture: Architecture, n_devices: int = 8, n_tokens: int = 2048
) -> list[MeshPlan]:
    """`mesh_plan` of every mesh that `n_devices` can form, most parallel experts first."""
    shapes = [
        (n_devices // model, model)
        for model in range(n_devices, 0, -1)
        if n_devices % model == 0 and architecture.config.n_experts % model == 0
    ]
    return [mesh_plan(architecture, shape, n_tokens) for shape in shapes]


def parameter(spec: TensorSpec) -> Any:
    """Shape and dtype of a parameter as released, without its values."""
    if not spec.quantizable or spec.item_bytes >= 2:
        dtype = jnp.bfloat16 if spec.item_bytes == 2 else jnp.float32
        return jax.ShapeDtypeStruct(spec.shape, dtype)
    scales = (*spec.shape[:-2], spec.scale_groups, spec.shape[-1])
    return QuantizedWeight8bit(
        jax.ShapeDtypeStruct(spec.shape, jnp.int8),  # type: ignore[arg-type]
        jax.ShapeDtypeStruct(scales, jnp.bfloat16),  # type: ignore[arg-type]
    )


def _cache(architecture: Architecture, n_tokens: int) -> Any:
    return jax.eval_shape(lambda: architecture.empty_cache(1, n_tokens, jnp.bfloat16))


@lru_cache(maxsize=16)
def working_bytes(architecture: Architecture, n_tokens: int) -> int:
    """About what a layer, or the logits, of one sequence holds besides weights and cache."""
    stream = jax.ShapeDtypeStruct((1, n_tokens, architecture.config.d_model), jnp.float32)

    def one_layer(*args: Any) -> Any:
        return architecture.decoder_layer(*args, dispatch=run_selected, hook=NO_HOOK)

    layer = jax.make_jaxpr(one_layer)(
        {
            spec.leaf: parameter(spec)
            for spec in architecture.layer_specs(architecture.config.moe_layers[0])
        },
        stream,
        jax.ShapeDtypeStruct((), jnp.int32),
        jax.ShapeDtypeStruct((1, n_tokens), jnp.bool_),
        _cache(architecture, n_tokens),
    )
    outer = {spec.leaf: parameter(spec) for spec in architecture.outer_specs()}

    def head(params: Any, h: jax.Array) -> jax.Array:
        logits = logits_of(architecture, params, h, jnp.bfloat16)
        return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)

    last = jax.make_jaxpr(head)(outer, stream)
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
