"""Changes of a value on its way through the model, as pure functions.

An `Intervention` is a function together with its arrays. The function is part of the compiled
program, the arrays are not: another strength, vector, key or expert runs the same program.
Each takes the value of a site and returns one of the same shape; it is rounded to the dtype of
the site afterwards. Where it is done is said in `grok.interventions.edits`.

Axes: B sequences, T tokens of this call, E experts, K experts a token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from grok.errors import InterventionError
from grok.interventions.sites import LAYER_SITES, MODEL_SITES

FLOAT_SITES = frozenset((*LAYER_SITES, *MODEL_SITES)) - {"router.experts"}
ALL_SITES = FLOAT_SITES | {"router.experts"}


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["arguments"],
    meta_fields=["function", "name", "sites", "context", "token_rows", "experts"],
)
@dataclass(frozen=True)
class Intervention:
    """A function of a site's value, its arrays kept apart.

    Attributes:
        function: called as function(value, *arguments, **context); the same object for all
            interventions of a kind.
        arguments: arrays, or interventions.
        name: of the kind.
        sites: names of those it may be used at.
        context: arguments that the function takes by name: "positions" [T], "probs" [B, T, E].
        token_rows: True where the first array may have a row for each token.
        experts: for "banned" or "chosen", the first array holds expert indexes, which no token
            may choose or which tokens are given; "" where no expert is named.
    """

    function: Callable[..., jax.Array]
    arguments: tuple[Any, ...] = ()
    name: str = "edit"
    sites: frozenset[str] = FLOAT_SITES
    context: tuple[str, ...] = ()
    token_rows: bool = False
    experts: Literal["", "banned", "chosen"] = ""

    def __call__(
        self, value: jax.Array, *references: np.ndarray | jax.Array, **given: Any
    ) -> jax.Array:
        asked = {name: given[name] for name in self.context}
        return self.function(value, *self.arguments, *references, **asked)

    def __str__(self) -> str:
        shown = ", ".join(_shown(argument) for argument in self.arguments)
        return self.name if self.name.endswith(")") else f"{self.name}({shown})"

    @property
    def parts(self) -> tuple[Intervention, ...]:
        """The interventions that this one is composed of; itself alone where it is not."""
        inner = tuple(one for one in self.arguments if isinstance(one, Intervention))
        return tuple(part for one in inner for part in one.parts) or (self,)

    def expert_indexes(self) -> np.ndarray:
        """The experts that this intervention names [N]; empty where `experts` is ""."""
        return np.asarray(self.arguments[0]) if self.experts else np.empty(0, np.int32)

    def with_token_rows(self, site_rank: int, lengths: Sequence[int], padded: int) -> Intervention:
        """This intervention, its rows for each token taken by position where it has such rows.

        Args:
            site_rank: axes of the site's value without the batch.
            lengths: tokens of each prompt.
            padded: rows to pad to, so that prompts of one bucket share a program.

        Raises:
            InterventionError: rows for another number of tokens than the prompt has.
        """
        parts = self.parts
        if parts[0] is not self:
            return compose(*(part.with_token_rows(site_rank, lengths, padded) for part in parts))
        if not self.token_rows or np.ndim(self.arguments[0]) < site_rank:
            return self
        rows, *rest = self.arguments
        shape = np.shape(rows)
        if len(shape) > site_rank or len(lengths) != 1 or shape[0] != lengths[0]:
            raise InterventionError(
                f"{self.name}: the array has shape {list(shape)}; expected one row for each of "
                f"the {lengths[0]} tokens of one prompt, or one row for all tokens."
            )
        pad = [(0, padded - shape[0])] + [(0, 0)] * (len(shape) - 1)
        arguments = (jnp.pad(jnp.asarray(rows), pad), np.int32(shape[0]), *rest)
        function = ByPosition(self.function)
        return Intervention(function, arguments, self.name, self.sites, ("positions",))


@dataclass(frozen=True)
class ByPosition:
    """A function with the row of each token's position; tokens beyond the rows stay as they are.

    Two of one inner function are equal, so they share a compiled program.
    """

    inner: Callable[..., jax.Array]

    def __call__(
        self,
        value: jax.Array,
        rows: jax.Array,
        length: jax.Array,
        *rest: Any,
        positions: jax.Array,
    ) -> jax.Array:
        own = rows[jnp.clip(positions, 0, rows.shape[0] - 1)][None]  # [1, T, ...]
        new = self.inner(value, own, *rest).astype(value.dtype)
        inside = (positions < length).reshape(1, -1, *(1,) * (value.ndim - 2))
        return jnp.where(inside, new, value)


# An intervention, or any function of a site's value that jax compiles.
Function = Intervention | Callable[..., jax.Array]


def _shown(argument: Any) -> str:
    """A short text of one argument, for traces' settings."""
    if isinstance(argument, Intervention):
        return str(argument)
    if isinstance(argument, jax.tree_util.Partial):
        return ", ".join(_shown(one) for one in argument.args)
    if isinstance(argument, tuple):
        return ", ".join(_shown(one) for one in argument)
    array = np.asarray(argument)
    if array.dtype.kind not in "biuf":
        return f"{type(argument).__name__}{list(array.shape)}"
    if array.ndim == 0:
        return f"{array.item():g}" if array.dtype.kind == "f" else str(array.item())
    if array.size <= 8 and array.dtype.kind in "biu":
        return str(array.tolist())
    return f"array{list(array.shape)}"


def as_intervention(function: Function) -> Intervention:
    """An intervention, or one made of any function of a value.

    A function of one's own is part of the program, with what it closes over. To change
    arrays without compiling again, pass them through `jax.tree_util.Partial(function, array)`.

    Raises:
        InterventionError: it cannot be called.
    """
    if isinstance(function, Intervention):
        return function
    if isinstance(function, jax.tree_util.Partial):
        name = getattr(function.func, "__name__", "edit")
        return Intervention(_apply_partial, (function,), name, ALL_SITES)
    if not callable(function):
        raise InterventionError(
            f"Expected a function of the site's value, such as scale(0.5); found {function!r:.60}."
        )
    return Intervention(function, (), getattr(function, "__name__", "edit"), ALL_SITES)


def _apply_partial(value: jax.Array, function: Any, *references: jax.Array) -> jax.Array:
    changed: jax.Array = function(value, *references)  # its own arguments come first
    return changed


# --- on any float site ---------------------------------------------------------------


def _number(value: ArrayLike, what: str, *, least: float = -np.inf) -> np.ndarray:
    """A finite float32 scalar, or an array that jax traces."""
    if isinstance(value, jax.core.Tracer):
        return value  # type: ignore[return-value]
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise InterventionError(f"{what} is {value!r:.40}; expected a number.") from error
    if array.ndim or not np.isfinite(array) or array < least:
        raise InterventionError(
            f"{what} is {value!r:.40}; expected a finite number"
            + (f" of at least {least:g}." if np.isfinite(least) else ".")
        )
    return array


def _array(value: ArrayLike, what: str) -> np.ndarray | jax.Array:
    """Finite float values, as they are given."""
    if isinstance(value, jax.Array):
        return value
    try:
        array = np.asarray(value)
        array = array if array.dtype.kind in "biuf" else array.astype(np.float32)
    except (TypeError, ValueError) as error:
        raise InterventionError(f"{what}: expected an array of numbers.") from error
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise InterventionError(f"{what}: {int(np.isnan(array).sum())} values are not a number.")
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _zero(value: jax.Array) -> jax.Array:
    return jnp.zeros_like(value)


def _scale(value: jax.Array, factor: jax.Array) -> jax.Array:
    return value.astype(jnp.float32) * factor


def _add(value: jax.Array, vector: jax.Array, strength: jax.Array) -> jax.Array:
    return value.astype(jnp.float32) + strength * vector.astype(jnp.float32)


def _replace(value: jax.Array, new: jax.Array) -> jax.Array:
    return jnp.broadcast_to(new, value.shape)


def _clamp(value: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    return jnp.clip(value.astype(jnp.float32), low, high)


def _noise(value: jax.Array, std: jax.Array, key: jax.Array, *, positions: jax.Array) -> jax.Array:
    shape = value.shape[:1] + value.shape[2:]
    keys = jax.vmap(lambda position: jax.random.fold_in(key, position))(positions)
    drawn = jax.vmap(lambda one: jax.random.normal(one, shape, jnp.float32), out_axes=1)(keys)
    return value.astype(jnp.float32) + std * drawn


def _composed(value: jax.Array, *functions: Intervention, **context: Any) -> jax.Array:
    for function in functions:
        value = function(value, **context).astype(value.dtype)
    return value


def zero_out() -> Intervention:
    """All values 0."""
    return Intervention(_zero, (), "zero_out")


def scale(factor: ArrayLike) -> Intervention:
    """Values times `factor`; 1 changes nothing."""
    return Intervention(_scale, (_number(factor, "scale"),), "scale")


def add_vector(vector: ArrayLike, strength: ArrayLike = 1.0) -> Intervention:
    """Values plus `strength` times `vector`, whose shape is the site's or its last axes."""
    strength = _number(strength, "strength")
    arguments = (_array(vector, "add_vector"), strength)
    return Intervention(_add, arguments, "add_vector", token_rows=True)


def replace_with(values: ArrayLike) -> Intervention:
    """Other values: of the site's shape, or of its last axes (one for all tokens), or a number."""
    arguments = (_array(values, "replace_with"),)
    return Intervention(_replace, arguments, "replace_with", ALL_SITES, token_rows=True)


def clamp(low: ArrayLike, high: ArrayLike) -> Intervention:
    """Values cut off at `low` and `high`."""
    least, most = _number(low, "clamp: low"), _number(high, "clamp: high")
    if not isinstance(low, jax.core.Tracer) and not isinstance(high, jax.core.Tracer):
        if least > most:
            raise InterventionError(f"clamp: low {low} is above high {high}; exchange them.")
    return Intervention(_clamp, (least, most), "clamp")


def noise(std: ArrayLike, key: int | np.integer | jax.Array) -> Intervention:
    """Gaussian noise of standard deviation `std`.

    Args:
        std: in the units of the site.
        key: a seed, or a key of `jax.random`. What a position gets depends on the key and the
            position alone, so that a token generated later gets what it would get in a prompt.
            The same key gives the same noise in every layer.
    """
    if isinstance(key, (int, np.integer)):
        if key < 0:
            raise InterventionError(f"noise: the seed is {key}; expected 0 or more.")
        key = jax.random.PRNGKey(key)
    std = _number(std, "noise: std", least=0)
    return Intervention(_noise, (std, key), "noise", context=("positions",))


def compose(*interventions: Function) -> Intervention:
    """One after the other, each rounded to the site's dtype."""
    parts = tuple(as_intervention(one) for one in interventions)
    if not parts:
        raise InterventionError("compose needs at least one intervention.")
    sites = frozenset.intersection(*(part.sites for part in parts))
    if not sites:
        raise InterventionError(
            f"compose: there is no site that fits all of {', '.join(map(str, parts))}."
        )
    context = tuple(dict.fromkeys(name for part in parts for name in part.context))
    return Intervention(_composed, parts, "compose", sites, context)


# --- on the router -------------------------------------------------------------------


def _experts_of(experts: ArrayLike, what: str) -> np.ndarray:
    """Distinct expert indexes [N] int32."""
    if isinstance(experts, jax.core.Tracer):
        return jnp.atleast_1d(experts)  # type: ignore[return-value]
    array = np.atleast_1d(np.asarray(experts))
    if array.dtype.kind not in "iu" or array.size == 0 or array.min() < 0:
        raise InterventionError(f"{what}: expected indexes of experts, found {experts!r:.60}.")
    ordered = np.sort(array, axis=-1)
    if (ordered[..., 1:] == ordered[..., :-1]).any():
        raise InterventionError(f"{what}: {array.tolist()!r:.60} names an expert twice.")
    return array.astype(np.int32)


def _ban(logits: jax.Array, experts: jax.Array) -> jax.Array:
    banned = jnp.zeros(logits.shape[-1], bool).at[experts].set(True, mode="drop")
    return jnp.where(banned, -jnp.inf, logits)


def _temperature(logits: jax.Array, temperature: jax.Array) -> jax.Array:
    return logits / temperature


def _force(experts: jax.Array, forced: jax.Array) -> jax.Array:
    return jnp.broadcast_to(forced, (*experts.shape[:-1], forced.shape[-1]))


def _include(experts: jax.Array, own: jax.Array) -> jax.Array:
    own = jnp.broadcast_to(own, (*experts.shape[:-1], 1))
    there = jnp.any(experts == own, axis=-1, keepdims=True)
    return jnp.where(there, experts, jnp.concatenate([experts[..., :-1], own], axis=-1))


@dataclass(frozen=True)
class _TopK:
    """The `k` likeliest experts; two of one `k` are equal, so they share a compiled program."""

    k: int

    def __call__(self, experts: jax.Array, *, probs: jax.Array) -> jax.Array:
        return jax.lax.top_k(probs, self.k)[1].astype(jnp.int32)


_LOGITS, _EXPERTS = frozenset(["router.logits"]), frozenset(["router.experts"])


def ban(experts: ArrayLike) -> Intervention:
    """Puts the logits of these experts at minus infinity: nobody chooses them.

    The softmax runs after it, so the others' gates grow by 1 / (1 − what the banned had).
    """
    return Intervention(_ban, (_experts_of(experts, "ban"),), "ban", _LOGITS, experts="banned")


def temperature(value: ArrayLike) -> Intervention:
    """Divides the router's logits; above 1 gates become more alike.

    It changes the choice only where the model adds a correction to the scores before it chooses.
    """
    tau = _number(value, "temperature")
    if not isinstance(value, jax.core.Tracer) and tau <= 0:
        raise InterventionError(f"temperature is {value}; expected more than 0.")
    return Intervention(_temperature, (tau,), "temperature", _LOGITS)


def force(experts: ArrayLike) -> Intervention:
    """These experts instead of the chosen ones, with the probabilities the router gives them.

    Args:
        experts: indexes [K], or [T, K] for each token its own. Forcing what was chosen
            changes nothing.
    """
    arguments = (_experts_of(experts, "force"),)
    return Intervention(_force, arguments, "force", _EXPERTS, token_rows=True, experts="chosen")


def include(expert: ArrayLike) -> Intervention:
    """This expert for every token, in place of its least likely choice unless it is chosen."""
    own = _experts_of(expert, "include")
    if not isinstance(expert, jax.core.Tracer) and own.size != 1:
        raise InterventionError(f"include: expected one expert, found {own.tolist()!r:.60}.")
    return Intervention(_include, (own,), "include", _EXPERTS, experts="chosen")


def set_top_k(k: int) -> Intervention:
    """The `k` experts that the router would choose, with the gates that its rule gives them."""
    if not isinstance(k, (int, np.integer)) or k < 1:
        raise InterventionError(f"set_top_k: found {k!r:.20}; expected a number from 1 up.")
    return Intervention(_TopK(int(k)), (), f"set_top_k({k})", _EXPERTS, ("probs",))
