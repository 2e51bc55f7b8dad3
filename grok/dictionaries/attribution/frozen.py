"""A layer's attention with its patterns and norms held, which makes it linear in the stream.

Patterns come from exponentials and norms from inverse roots, and nothing else in attention curves.
So a program is held by giving these two no derivative, whatever the family: causal windows, sinks,
capped logits and rotations are all within the pattern.

Axes: N covectors, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grok.architectures.architecture import Architecture
from grok.engine.compiled import AS_WRITTEN, logits_of

EXPONENTIALS = ("exp", "exp2")
HELD = (*EXPONENTIALS, "rsqrt")
INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # of calls within a program
LOOPS = ("while", "cond", "scan")
Changed = Callable[[jax.Array], jax.Array]


def held(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The function with exponentials and inverse roots taken as constants by derivatives."""

    def wrapped(*args: Any) -> jax.Array:
        leaves, tree = jax.tree.flatten(args)
        closed = jax.make_jaxpr(lambda *own: function(*jax.tree.unflatten(tree, own)))(*leaves)
        (out,) = _evaluated(closed.jaxpr, closed.consts, leaves)
        return out

    return wrapped


def _evaluated(
    jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], changed: Changed | None = None
) -> list[Any]:
    """Results of a program; `changed` is given each exponential and says what stands for it."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def of(atom: Any) -> Any:
        return atom.val if hasattr(atom, "val") else values[atom]

    for equation in _needed(jaxpr):
        given = [of(atom) for atom in equation.invars]
        name, params = equation.primitive.name, equation.params
        inner = next((params[key] for key in INNER if key in params), None)
        if inner is not None and name not in LOOPS:
            own = getattr(inner, "consts", ())
            out = _evaluated(getattr(inner, "jaxpr", inner), own, given, changed)
        elif name == "scan":
            assert changed is None
            out = equation.primitive.bind(*given, **{**params, "jaxpr": _body(params["jaxpr"])})
        else:
            out = equation.primitive.bind(*given, **equation.primitive.get_bind_params(params))
            out = out if equation.primitive.multiple_results else [out]
            if changed is not None:
                out = [changed(out[0])] if name in EXPONENTIALS else out
            elif name in HELD:
                out = [jax.lax.stop_gradient(one) for one in out]
        values.update(zip(equation.outvars, out, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _body(closed: Any) -> Any:
    """A loop's body, held."""
    run = partial(_evaluated, closed.jaxpr, closed.consts)
    return jax.make_jaxpr(lambda *own: run(own))(*closed.in_avals)


def _needed(jaxpr: Any) -> list[Any]:
    """The equations that the results follow from: the experts of a layer are not among them."""
    wanted = {id(atom) for atom in jaxpr.outvars}
    found = []
    for equation in reversed(jaxpr.eqns):
        if any(id(out) in wanted for out in equation.outvars):
            wanted.update(id(atom) for atom in equation.invars)
            found.append(equation)
    return found[::-1]


class _Stream:
    """A hook that keeps the stream after attention."""

    def __call__(self, site: str, value: Any, **context: Any) -> Any:
        if site == "resid_mid":
            self.value = value
        return value

    def wants(self, site: str) -> bool:
        return False


def _half(architecture: Architecture, params: Any, keys: jax.Array, h: jax.Array) -> jax.Array:
    """The stream after a layer's attention [T, D] of that before the layer."""
    hook = _Stream()
    cache = architecture.empty_cache(1, len(h), jnp.float32)
    architecture.decoder_layer(
        params, h[None], jnp.int32(0), keys, cache, dispatch=_no_experts, hook=hook
    )
    found: jax.Array = hook.value[0]
    return found


def _no_experts(rows: jax.Array, *_: Any, summed: bool = True, **__: Any) -> jax.Array:
    assert summed
    return jnp.zeros(rows.shape, jnp.float32)


@partial(jax.jit, static_argnames=("architecture",), compiler_options=AS_WRITTEN)
def pulled(
    architecture: Architecture, params: Any, keys: jax.Array, h: jax.Array, g: jax.Array
) -> jax.Array:
    """Covectors before a layer's attention [N, T, D] of those after it.

    Args:
        architecture: of the layer.
        params: of the layer.
        keys: [1, T], False at padding.
        h: the stream before the layer [T, D], which decides patterns and norms.
        g: [N, T, D].
    """
    back = jax.vjp(held(partial(_half, architecture, params, keys)), h)[1]
    found: jax.Array = jax.vmap(lambda one: back(one)[0])(g)
    return found


@partial(jax.jit, static_argnames=("architecture",), compiler_options=AS_WRITTEN)
def pushed(
    architecture: Architecture, params: Any, keys: jax.Array, h: jax.Array, change: jax.Array
) -> jax.Array:
    """What a change of the stream before a layer's attention [T, D] is after it, all held."""
    function = held(partial(_half, architecture, params, keys))
    found: jax.Array = jax.jvp(function, (h,), (change,))[1]
    return found


@partial(jax.jit, static_argnames=("architecture",), compiler_options=AS_WRITTEN)
def with_patterns(
    architecture: Architecture, params: Any, keys: jax.Array, h: jax.Array, plain: jax.Array
) -> jax.Array:
    """The stream after a layer's attention [T, D], with the patterns of another stream.

    Args:
        architecture, params, keys: of the layer.
        h: the stream before it [T, D].
        plain: the stream whose patterns are taken [T, D]; norms are those of h.
    """
    closed = jax.make_jaxpr(partial(_half, architecture, params, keys))(h)
    seen: list[jax.Array] = []

    def keep(value: jax.Array) -> jax.Array:
        seen.append(value)
        return value

    _evaluated(closed.jaxpr, closed.consts, [plain], keep)
    left = iter(seen)
    (out,) = _evaluated(closed.jaxpr, closed.consts, [h], lambda _: next(left))
    found: jax.Array = out
    return found


@partial(jax.jit, static_argnames=("architecture",), compiler_options=AS_WRITTEN)
def offset(architecture: Architecture, params: Any, keys: jax.Array, h: jax.Array) -> jax.Array:
    """What held attention adds whatever the stream is [T, D]: from biases, 0 in Grok-1."""
    out, linear = jax.jvp(held(partial(_half, architecture, params, keys)), (h,), (h,))
    return out - linear


@partial(jax.jit, static_argnames=("architecture",), compiler_options=AS_WRITTEN)
def logit_covector(
    architecture: Architecture, outer: Any, h: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """A weighted sum of next-token logits, and its covector [D], the last norm held.

    Args:
        architecture: of the model.
        outer: its parameters outside the layers.
        h: the stream after the last layer at one token [D].
        weights: of the logits [V].
    """

    def of(stream: jax.Array) -> jax.Array:
        logits = logits_of(architecture, outer, stream[None, None], jnp.float32)[0, 0]
        return jnp.dot(logits, weights, precision=jax.lax.Precision.HIGHEST)

    value, back = jax.vjp(held(of), h)
    return value, back(jnp.ones_like(value))[0]


def as_rows(values: np.ndarray, length: int) -> np.ndarray:
    """Values [T, D] filled up with zeros to `length` rows, float32."""
    out = np.zeros((length, values.shape[1]), np.float32)
    out[: len(values)] = values
    return out
