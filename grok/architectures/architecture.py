"""What a family of models is to the runner, the engine, streaming and planning.

An `Architecture` is a model's config with what follows from it: which parameters there are and
what they are called in a checkpoint, and the functions that compute. It is immutable and
hashable, so compiled programs are kept by it. A new family is one file with such a class, and a
`grok.architectures.families.Family` that recognises its folders.

Axes: B sequences, T tokens of this call, S cached positions, D d_model, E experts, K experts a
token, V vocabulary, N token rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, Self

import jax

from grok.architectures.moe import Choice, ExpertForm, Experts
from grok.checkpoints.tensor_spec import TensorSpec
from grok.config import ModelConfig
from grok.interventions.sites import Hook

Params = Mapping[str, Any]
"""Parameters by their leaf: arrays, or int8 weights with scales."""

Cache = Any
"""Keys and values of one layer, or whatever attention keeps of earlier tokens: a pytree."""

# (rows [N, D], experts [N, K], gates [N, K], weights) -> [N, D]; with summed=False, which only
# a hook on single contributions asks for, [N, K, D].
Dispatch = Callable[..., jax.Array]


class Routed(NamedTuple):
    """What a layer computed before its experts.

    stream: residual stream [B, T, D] float32, or a pytree with what else the rest of the layer
        needs of it; expert_input [B, T, D]; choice: router logits, probabilities, experts, gates.
    """

    stream: Any
    expert_input: jax.Array
    choice: Choice


class ExpertProducts(NamedTuple):
    """Where an expert's matrices are, and what it computes of them.

    activated, linear, down: leaves of the three matrices; linear is "" where the first holds
    both branches. form: what is computed. activated_bias, down_bias: leaves, "" for none.
    """

    activated: str
    linear: str
    down: str
    form: ExpertForm
    activated_bias: str = ""
    down_bias: str = ""

    def of(self, params: Params) -> Experts:
        """The weights among a layer's parameters, of all experts or of one."""
        return Experts(
            params[self.activated],
            params.get(self.linear),
            params[self.down],
            params.get(self.activated_bias),
            params.get(self.down_bias),
        )


class Architecture(Protocol):
    """One model's parameters and arithmetic. All functions are pure and can be compiled."""

    @property
    def config(self) -> ModelConfig: ...

    def __hash__(self) -> int: ...

    def at(self, layer: int) -> Self:
        """The same for one layer: its arithmetic and its sites, where layers differ.

        Equal for layers that compute alike, so that they share a compiled program.
        """
        ...

    # parameters

    def layer_specs(self, layer: int) -> Sequence[TensorSpec]:
        """Parameters of a layer, in the order in which they are read from disk."""
        ...

    def outer_specs(self) -> Sequence[TensorSpec]:
        """Parameters outside the layers, the token embedding first."""
        ...

    def router_spec(self, layer: int) -> TensorSpec:
        """The router [D, E]."""
        ...

    def router_norm_spec(self, layer: int) -> TensorSpec:
        """The scale of the norm before the router [D]."""
        ...

    @property
    def head_leaf(self) -> str:
        """Leaf of the table [V, D] that gives the logits; the embedding's where they are tied."""
        ...

    @property
    def layer_sites(self) -> Sequence[str]:
        """Sites of a layer, of `grok.interventions.sites.LAYER_SITES`, that a hook is called at."""
        ...

    @property
    def pad_token(self) -> int | None:
        """An id that attention never reads as a key; None for none."""
        ...

    @property
    def has_choice_values(self) -> bool:
        """Whether experts are chosen by other values than their probabilities or scores."""
        ...

    @property
    def score(self) -> Literal["softmax", "sigmoid"]:
        """What a choice's `probs` are: a softmax over all experts, or a sigmoid of each."""
        ...

    @property
    def plain_gates(self) -> bool:
        """Whether gates are the chosen experts' `probs`, and nothing else."""
        ...

    @property
    def by_expert(self) -> bool:
        """Whether streaming reads a layer's experts one by one: they are many and small."""
        ...

    @property
    def expert_products(self) -> ExpertProducts: ...

    def with_vocabulary(self, vocab_size: int) -> Self:
        """The same with so many rows in its tables, of which some are computed at a time."""
        ...

    # memory

    def cache_values(self) -> int:
        """Values that attention keeps of one token in one layer."""
        ...

    def scores(self, n_tokens: int) -> int:
        """Attention scores of a sequence that are held at once."""
        ...

    def score_operations(self, n_keys: int) -> int:
        """Operations of attention's scores and their sums for one token that sees `n_keys`."""
        ...

    # arithmetic

    def empty_cache(self, batch: int, length: int, dtype: Any) -> Cache:
        """Room for `length` positions of one layer."""
        ...

    def embed(self, params: Params, tokens: jax.Array, dtype: Any) -> jax.Array:
        """Residual stream before the first layer [B, T, D] float32, of tokens [B, T]."""
        ...

    def decoder_layer(
        self,
        params: Params,
        h: jax.Array,
        start: jax.Array,
        key_is_token: jax.Array,
        cache: Cache,
        *,
        dispatch: Dispatch,
        hook: Hook,
    ) -> tuple[jax.Array, Choice | None, Cache]:
        """One layer; the choice is None where it has no experts.

        Args:
            h: residual stream [B, T, D] float32.
            start: position of the first of the T tokens.
            key_is_token: [B, S], False at padding.
            cache: this layer's.
            dispatch: computes the experts.
            hook: called at every site of `grok.interventions.sites`.
        """
        ...

    def before_experts(
        self,
        params: Params,
        h: jax.Array,
        start: jax.Array,
        key_is_token: jax.Array,
        cache: Cache,
        *,
        hook: Hook,
    ) -> tuple[Routed, Cache]:
        """A layer up to its router's choice; needs no expert's weights."""
        ...

    def after_experts(
        self, params: Params, stream: Any, parts: jax.Array, dtype: Any, *, hook: Hook
    ) -> jax.Array:
        """The residual stream after the layer.

        Args:
            stream: what `before_experts` gave of that name.
            parts: the experts' weighted sum [B, T, D] float32, or their contributions
                [B, T, K, D] where the hook wants "moe.contribution".
        """
        ...

    def final_norm(self, params: Params, h: jax.Array, dtype: Any, *, hook: Hook) -> jax.Array:
        """What the head reads [B, T, D] in `dtype`."""
        ...

    def head(self, params: Params, normed: jax.Array) -> jax.Array:
        """Logits [B, T, V] of what `final_norm` gives."""
        ...


def all_layer_specs(architecture: Architecture) -> Iterator[TensorSpec]:
    """The parameters of all layers."""
    for layer in range(architecture.config.n_layers):
        yield from architecture.layer_specs(layer)


def all_specs(architecture: Architecture) -> Iterator[TensorSpec]:
    """All parameters of a model."""
    yield from architecture.outer_specs()
    yield from all_layer_specs(architecture)
