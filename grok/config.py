"""The sizes of a model: what every family has, and Grok-1's own.

Configs use the field's names; xAI's names appear only in `GrokConfig.from_dict` and
`to_dict`, which translate the `config.json` that may lie beside `ckpt-0`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from grok.errors import ConfigError

BUNDLED_MODEL = Path(__file__).resolve().parent / "demo"
"""Folder of the small trained model that ships with the project."""
BUNDLED_DICTIONARIES = BUNDLED_MODEL / "dictionaries"
"""Folder of the dictionaries of its features, one a kind."""

# Far above any model; a config beyond them is damaged or made to exhaust memory.
MAX_LAYERS = 4096
MAX_SIZE = 2**31
MAX_FACTOR = 1e6


class ModelConfig(Protocol):
    """What is said of a model of any family; immutable and hashable.

    Attributes:
        vocab_size: rows of the embedding.
        d_model: width of the residual stream.
        n_layers: decoder layers.
        n_experts: experts in a layer.
        top_k: experts used by a token.
        d_ff: hidden width of one expert.
        context_length: longest sequence, in tokens.
        eos_token: id that ends a generation; -1 for none.
        eos_tokens: all ids that do.
        moe_layers: numbers of the layers with experts.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def d_model(self) -> int: ...

    @property
    def n_layers(self) -> int: ...

    @property
    def n_experts(self) -> int: ...

    @property
    def top_k(self) -> int: ...

    @property
    def d_ff(self) -> int: ...

    @property
    def context_length(self) -> int: ...

    @property
    def eos_token(self) -> int: ...

    @property
    def eos_tokens(self) -> tuple[int, ...]: ...

    @property
    def moe_layers(self) -> Sequence[int]: ...


@dataclass(frozen=True)
class GrokConfig:
    """Everything that fixes the shapes and the arithmetic of one model of Grok-1's family.

    Attributes:
        vocab_size: rows of the embedding; the decoder is tied to it.
        d_model: width of the residual stream.
        n_layers: decoder layers, each attention then a mixture of experts.
        n_heads: query heads.
        n_kv_heads: key/value heads; query head h reads head h // (n_heads / n_kv_heads).
        d_head: width of one head.
        widening: ratio from which `d_ff` is derived.
        n_experts: experts in every layer.
        top_k: experts used by a token.
        context_length: longest sequence, in tokens.
        embedding_multiplier: factor on the embedding.
        output_multiplier: factor on the logits.
        attention_multiplier: factor on query-key products, before the soft cap of 30.
        pad_token: id that attention never reads as a key.
        eos_token: id that ends a generation.
    """

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    widening: float
    n_experts: int
    top_k: int
    context_length: int
    embedding_multiplier: float
    output_multiplier: float
    attention_multiplier: float
    pad_token: int = 0
    eos_token: int = 2

    def __post_init__(self) -> None:
        for name in (
            "vocab_size",
            "d_model",
            "n_layers",
            "n_heads",
            "n_kv_heads",
            "d_head",
            "n_experts",
            "top_k",
            "context_length",
        ):
            value = getattr(self, name)
            limit = MAX_LAYERS if name == "n_layers" else MAX_SIZE
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
                raise ConfigError(
                    f"{name} is {value!r:.40}; expected a whole number from 1 to {limit}."
                )
        for name in (
            "widening",
            "embedding_multiplier",
            "output_multiplier",
            "attention_multiplier",
        ):
            value = getattr(self, name)
            if (
                not isinstance(value, int | float)
                or isinstance(value, bool)
                or not 0 < value <= MAX_FACTOR
            ):
                raise ConfigError(
                    f"{name} is {value!r:.40}; expected a positive number up to {MAX_FACTOR}."
                )
        for name in ("pad_token", "eos_token"):
            value = getattr(self, name)
            if (
                not isinstance(value, int)
                or isinstance(value, bool)
                or not 0 <= value < self.vocab_size
            ):
                raise ConfigError(
                    f"{name} is {value!r:.40}; expected a token id from 0 to {self.vocab_size - 1}."
                )
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"n_heads is {self.n_heads} and n_kv_heads {self.n_kv_heads}; "
                "expected a whole number of query heads for each key/value head."
            )
        if self.top_k > self.n_experts:
            raise ConfigError(
                f"top_k is {self.top_k} with {self.n_experts} experts; "
                "a token cannot use more experts than there are."
            )
        if self.d_head % 2:
            raise ConfigError(f"d_head is {self.d_head}; rotary embeddings need an even width.")

    @property
    def eos_tokens(self) -> tuple[int, ...]:
        return (self.eos_token,)

    @property
    def moe_layers(self) -> range:
        """All of them."""
        return range(self.n_layers)

    @property
    def d_ff(self) -> int:
        """Hidden width of one expert: int(widening * d_model) * 2 // 3, up to a multiple of 8."""
        width = int(self.widening * self.d_model) * 2 // 3
        return width + (8 - width) % 8

    def n_parameters(self, *, active: bool = False) -> int:
        """Number of weights; with `active`, those that one token passes through."""
        experts = self.top_k if active else self.n_experts
        attention = self.d_model * self.d_head * 2 * (self.n_heads + self.n_kv_heads)
        layer = attention + 4 * self.d_model + self.d_model * self.n_experts
        layer += experts * 3 * self.d_model * self.d_ff
        return self.vocab_size * self.d_model + self.d_model + self.n_layers * layer

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GrokConfig:
        """The config that xAI's nested `config.json` keys describe.

        Raises:
            ConfigError: a key is missing or holds a value no model can have.
        """
        if not isinstance(values, Mapping) or not isinstance(values.get("model"), Mapping):
            raise ConfigError(
                'config.json holds no "model" object; expected the keys of the published runner.'
            )
        model = values["model"]
        wanted: dict[str, tuple[Mapping[str, Any], str]] = {
            "vocab_size": (values, "vocab_size"),
            "d_model": (model, "emb_size"),
            "n_layers": (model, "num_layers"),
            "n_heads": (model, "num_q_heads"),
            "n_kv_heads": (model, "num_kv_heads"),
            "d_head": (model, "key_size"),
            "widening": (model, "widening_factor"),
            "n_experts": (model, "num_experts"),
            "top_k": (model, "num_selected_experts"),
            "context_length": (values, "sequence_len"),
            "embedding_multiplier": (values, "embedding_multiplier_scale"),
            "output_multiplier": (values, "output_multiplier_scale"),
            "attention_multiplier": (model, "attn_output_multiplier"),
            "pad_token": (values, "pad_token"),
            "eos_token": (values, "eos_token"),
        }
        missing = [key for source, key in wanted.values() if key not in source]
        if missing:
            raise ConfigError(f"config.json lacks {', '.join(missing)}.")
        return cls(**{name: source[key] for name, (source, key) in wanted.items()})

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`."""
        return {
            "vocab_size": self.vocab_size,
            "pad_token": self.pad_token,
            "eos_token": self.eos_token,
            "sequence_len": self.context_length,
            "embedding_init_scale": 1.0,
            "output_multiplier_scale": self.output_multiplier,
            "embedding_multiplier_scale": self.embedding_multiplier,
            "model": {
                "emb_size": self.d_model,
                "widening_factor": self.widening,
                "key_size": self.d_head,
                "num_q_heads": self.n_heads,
                "num_kv_heads": self.n_kv_heads,
                "num_layers": self.n_layers,
                "attn_output_multiplier": self.attention_multiplier,
                "shard_activations": True,
                "num_experts": self.n_experts,
                "num_selected_experts": self.top_k,
                "data_axis": "data",
                "model_axis": "model",
            },
        }


def read_config(file: Path) -> GrokConfig:
    """The config in a `config.json`.

    Raises:
        ConfigError: the file is not JSON or does not describe a model; the text names the file.
    """
    try:
        return GrokConfig.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file}: not a readable JSON file ({error}).") from error
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


GROK_1 = GrokConfig(
    vocab_size=131072,
    d_model=6144,
    n_layers=64,
    n_heads=48,
    n_kv_heads=8,
    d_head=128,
    widening=8,
    n_experts=8,
    top_k=2,
    context_length=8192,
    embedding_multiplier=78.38367176906169,
    output_multiplier=0.5773502691896257,
    attention_multiplier=0.08838834764831845,
)
"""The released model; what a checkpoint without a `config.json` is taken to be."""
