"""What fixes the shapes and the arithmetic of a model of these families, whatever its family.

Every family's config.json becomes one `MoeConfig`; nothing after that knows families by name.

Axes: E experts, K experts a token, R the width of a head that turns.
"""

from __future__ import annotations

from dataclasses import InitVar, dataclass
from typing import Literal

from grok.errors import ConfigError

# Longer contexts are cut: masks and caches are laid out for all of it.
LONGEST_CONTEXT = 2**17
MOST_EXPERTS = 2**18  # of all layers: each has names of its own; the largest release has 23,040


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of a part of each head.

    Attributes:
        frequencies: radians a position, [R/2].
        factor: on cosine and sine both.
        pairs: dimensions 2j and 2j + 1 turn together; else j and j + R/2.
    """

    frequencies: tuple[float, ...]
    factor: float = 1.0
    pairs: bool = False

    @property
    def width(self) -> int:
        return 2 * len(self.frequencies)


@dataclass(frozen=True)
class Latent:
    """Attention whose keys and values are read from a small latent of each token.

    Attributes:
        q_rank: width of the queries' own latent; None: queries come from the stream.
        kv_rank: width of the latent of keys and values.
        plain, turned: widths of the parts of a query and a key that stay and that turn.
        value: width of a value.
        bias: whether the first products have biases.
    """

    q_rank: int | None
    kv_rank: int
    plain: int
    turned: int
    value: int
    bias: bool = False


@dataclass(frozen=True)
class Attention:
    """Attention of all layers; what differs from layer to layer is in `LayerKind`.

    Attributes:
        n_heads, n_kv_heads: of queries, and of keys and values.
        d_head: width of a query and of a key.
        scale: on their products.
        bias, out_bias: of the queries', keys' and values' products, and of the last one.
        norm: what is normed before rotation: each "head", the "whole" vector, or nothing; "rms"
            is each head without a learned scale, after rotation.
        clip: bound of queries, keys and values; None for none.
        sinks: each head has one more logit, whose share goes nowhere.
        latent: where keys and values come from a latent.
    """

    n_heads: int
    n_kv_heads: int
    d_head: int
    scale: float
    bias: bool = False
    out_bias: bool = False
    norm: Literal["", "head", "whole", "rms"] = ""
    clip: float | None = None
    sinks: bool = False
    latent: Latent | None = None


@dataclass(frozen=True)
class LayerKind:
    """What a layer has that others may not.

    Attributes:
        experts: a mixture; False: one dense block.
        rope: rotary embedding.
        window: keys that a query sees, its own among them; None: all.
        chunk: a query sees the keys of its own run of so many positions; None: all.
        temperature: (scale, floor) of factors on queries that grow with their position.
    """

    experts: bool = True
    rope: bool = True
    window: int | None = None
    chunk: int | None = None
    temperature: tuple[float, float] | None = None


@dataclass(frozen=True)
class Router:
    """How experts are chosen and weighted.

    Attributes:
        rule: "softmax" over all, then the largest; "chosen": the largest logits, softmax over
            those; "sigmoid": the largest of sigmoid plus correction; "sparsemixer": two, one after
            the other, each with a softmax over what is near it; "input": the largest logits,
            whose sigmoid multiplies what the expert reads.
        renormalised: gates are divided by their sum.
        scale: on the gates.
        groups: (groups, those that stay), where experts are chosen within groups.
        bias: added to the logits.
        correction: added to the scores while experts are chosen.
        near: of "sparsemixer": how far below the largest a logit may lie, relative.
        wide: computed in float32, whatever the activations are.
        rounds_gates: gates are rounded to the activation dtype.
        name: tensors of the router, after the layer's block.
    """

    rule: Literal["softmax", "chosen", "sigmoid", "sparsemixer", "input"]
    renormalised: bool = False
    scale: float = 1.0
    groups: tuple[int, int] | None = None
    bias: bool = False
    correction: str = ""
    near: float = 0.0
    wide: bool = False
    rounds_gates: bool = False
    name: str = "gate"


@dataclass(frozen=True)
class ExpertTensors:
    """How a layer's experts are stored.

    Attributes:
        first, second, down: what follows an expert's number in the names of its three matrices;
            `second` is "" where the first holds both branches.
        apart: an expert is three tensors of its own; False: experts are the first axis.
        stored: "as used" [in, out], or "turned" [out, in].
        biases: after both products.
    """

    first: str
    second: str
    down: str
    apart: bool = True
    turned: bool = True
    biases: bool = False


@dataclass(frozen=True)
class Multipliers:
    """Factors on embedding, on what is added to the stream, and on the logits."""

    embedding: float = 1.0
    residual: float = 1.0
    logits: float = 1.0


@dataclass(frozen=True)
class MoeConfig:
    """One model.

    Attributes:
        family: its `model_type`.
        vocab_size, d_model, n_layers, n_experts, top_k, d_ff, context_length: as for
            `grok.config.ModelConfig`; d_ff is the width of one routed expert.
        eos_tokens: ids that end a text.
        norm_epsilon: of all norms but those within a latent.
        layer_norm: the norms take off the mean and have a bias.
        layers: what each layer has.
        attention, rope, router: of all layers.
        experts: how they are stored.
        activation: "silu", or "clamped" as gpt-oss has it.
        limit, alpha: of "clamped".
        fused: how the two branches lie in one product, "halves" or "interleaved".
        d_shared: width of the expert that every token passes through; 0: none.
        shared_gate: a gate of its own for it.
        d_dense: width of the block of a layer without a mixture.
        block: prefix of the tensors of a layer's feed-forward block; shared: of its shared expert.
        tied: the head is the embedding.
        head_bias: the head has a bias.
        multipliers: factors along the way.
        prefix: of all names.
        fp8_block: (rows, columns) of a block that shares a scale, where matrices are 8-bit.
        mxfp4: experts are stored in 4 bits.
        where: the file, for messages; not kept.
    """

    family: str
    vocab_size: int
    d_model: int
    n_experts: int
    top_k: int
    d_ff: int
    context_length: int
    eos_tokens: tuple[int, ...]
    norm_epsilon: float
    layers: tuple[LayerKind, ...]
    attention: Attention
    rope: Rope
    router: Router
    experts: ExpertTensors
    block: str
    layer_norm: bool = False
    activation: Literal["silu", "clamped"] = "silu"
    limit: float = 0.0
    alpha: float = 0.0
    fused: Literal["", "halves", "interleaved"] = ""
    d_shared: int = 0
    shared_gate: bool = False
    shared: str = ""
    d_dense: int = 0
    tied: bool = False
    head_bias: bool = False
    multipliers: Multipliers = Multipliers()
    prefix: str = ""
    fp8_block: tuple[int, int] | None = None
    mxfp4: bool = False
    where: InitVar[str] = "config"

    def __post_init__(self, where: str) -> None:
        if self.top_k > self.n_experts:
            raise _refused(
                where,
                f"{self.top_k} experts a token of {self.n_experts}; a token cannot use more "
                "experts than there are.",
            )
        n_all = self.n_experts * sum(kind.experts for kind in self.layers)
        if n_all > MOST_EXPERTS:
            raise _refused(
                where,
                f"{self.n_experts:,} experts a layer, {n_all:,} in all; expected at most "
                f"{MOST_EXPERTS:,}.",
            )
        if not any(kind.experts for kind in self.layers):
            raise _refused(where, "no layer has experts; expected a mixture in some.")
        if self.attention.n_heads % self.attention.n_kv_heads:
            raise _refused(
                where,
                f"{self.attention.n_heads} query heads and {self.attention.n_kv_heads} of keys; "
                "expected a whole number for each.",
            )
        groups = self.router.groups
        if groups is not None and (
            self.n_experts % groups[0]
            or groups[1] > groups[0]
            or groups[1] * (self.n_experts // groups[0]) < self.top_k
        ):
            raise _refused(
                where,
                f"{self.top_k} of {self.n_experts} experts within {groups[1]} of {groups[0]} "
                "groups; expected groups of one size with room for the chosen ones.",
            )

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @property
    def eos_token(self) -> int:
        """The first id that ends a text; -1 for none."""
        return self.eos_tokens[0] if self.eos_tokens else -1

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Numbers of the layers with experts."""
        return tuple(i for i, kind in enumerate(self.layers) if kind.experts)


def _refused(where: str, what: str) -> ConfigError:
    return ConfigError(f"{where}: {what} Get the model's own config.json.")
