"""Settings of a training run, from a TOML file: a frozen dataclass a part.

No JAX here.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grok.config import ModelConfig
from grok.dictionaries.kinds.design import Activation, Design, from_values
from grok.dictionaries.kinds.dictionary import CONTEXT
from grok.dictionaries.kinds.normalising import NORMALISATIONS
from grok.errors import ConfigError
from grok.interventions.sites import MIXTURE_SITES, HookPoint, check_mixture

PENALTIES = ("none", "l1", "tanh", "step", "target_l0")


def _need(part: str, **fine: bool) -> None:
    for name, good in fine.items():
        if not good:
            raise ConfigError(f"{part}: {name} is outside its range.")


@dataclass(frozen=True)
class Sites:
    """The part `[dictionary]`; see `grok.dictionaries.kinds.design.Design`.

    Attributes:
        kind: of the dictionary.
        reads, writes: sites within a layer.
        layers: numbers; where empty all, or those with experts for a site of theirs.
        features: of each group.
        skip: whether there is one.
    """

    kind: str
    reads: tuple[str, ...]
    features: int
    writes: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    skip: bool = False

    def design(self, model: ModelConfig) -> Design:
        """The design for a model.

        Raises:
            ConfigError: it does not fit the model.
        """
        of_experts = any(site in MIXTURE_SITES for site in (*self.reads, *self.writes))
        layers = self.layers or tuple(model.moe_layers if of_experts else range(model.n_layers))
        if not all(0 <= layer < model.n_layers for layer in layers):
            raise ConfigError(
                f"dictionary: layers {layers}; the model has layers 0 to {model.n_layers - 1}."
            )
        for layer in layers if of_experts else ():
            for site in (*self.reads, *self.writes):
                check_mixture(HookPoint(layer, site), model)
        return Design(
            self.kind,
            layers,
            self.reads,
            self.writes or self.reads,
            self.features,
            model.d_model,
            self.skip,
            model.n_experts if self.kind == "expert_transcoder" else 0,
        )


@dataclass(frozen=True)
class Loss:
    """Terms beside the normalised squared error.

    Attributes:
        penalty: none, `l1` (f·‖W_d‖), `tanh` (tanh(scale·f·‖W_d‖)), `step` (active features) or
            `target_l0` ((L0 / target − 1)²); a mean over tokens and groups of sums over features.
        coefficient: of the penalty, at the end of its warm-up.
        scale: of tanh.
        target: active features of a token and group that `target_l0` aims at.
        pre_activation: coefficient of relu(θ − pre)·‖W_d‖ of dead features.
        auxiliary: coefficient of the error that dead features are asked to explain.
        auxiliary_k: dead features of a token that do.
        auxiliary_share: of the batch in which they do.
        routing: coefficient of the error as the layer's router sees it, for an `sae` of
            `resid_mid`; 0 unless its price is to be measured.
    """

    penalty: str = "none"
    coefficient: float = 0.0
    scale: float = 4.0
    target: float = 16.0
    pre_activation: float = 0.0
    auxiliary: float = 1 / 32
    auxiliary_k: int = 64
    auxiliary_share: float = 0.25
    routing: float = 0.0

    def __post_init__(self) -> None:
        if self.penalty not in PENALTIES:
            raise ConfigError(
                f"loss: penalty {self.penalty!r:.40}; expected one of {', '.join(PENALTIES)}."
            )
        _need(
            "loss",
            coefficient=self.coefficient >= 0,
            scale=self.scale > 0,
            target=self.target > 0,
            pre_activation=self.pre_activation >= 0,
            auxiliary=self.auxiliary >= 0,
            auxiliary_k=self.auxiliary_k >= 1,
            auxiliary_share=0 < self.auxiliary_share <= 1,
            routing=self.routing >= 0,
        )


@dataclass(frozen=True)
class Normalisation:
    """Units of training; see `grok.dictionaries.kinds.normalising`.

    Attributes:
        reads, writes: of what is read and what is written.
        tokens: that they are measured on.
    """

    reads: str = "centred"
    writes: str = "centred"
    tokens: int = 100_000

    def __post_init__(self) -> None:
        for name in (self.reads, self.writes):
            if name not in NORMALISATIONS:
                raise ConfigError(
                    f"normalisation: {name!r:.40}; expected one of {', '.join(NORMALISATIONS)}."
                )
        _need("normalisation", tokens=self.tokens >= 16)


@dataclass(frozen=True)
class Text:
    """How the text is cut.

    Attributes:
        context: tokens of a window.
        buffer: batches whose tokens are mixed.
        first_tokens: "measured" leaves position 0 out where its norm stands out, "keep" never.
    """

    context: int = CONTEXT
    buffer: int = 64
    first_tokens: str = "measured"

    def __post_init__(self) -> None:
        if self.first_tokens not in ("measured", "keep"):
            raise ConfigError(f"text: first_tokens {self.first_tokens!r:.40}.")
        _need("text", context=self.context >= 2, buffer=self.buffer >= 1)


@dataclass(frozen=True)
class Schedule:
    """The part `[training]`.

    Attributes:
        tokens: in all.
        batch: tokens of a step.
        learning_rate: after its warm-up.
        warm_up: share of the steps in which it rises.
        decay: share of the steps, the last, in which it falls to 0.
        clip: largest norm of the gradient.
        anneal: share of the steps in which k falls to its value, or the penalty rises to its own.
        k_start: k at the first step; a feature in 16 where 0.
        dead_window: tokens without activity after which a feature counts as dead.
        save_every: steps between checkpoints.
        log_every: steps between lines of the log.
        seed: of parameters and of the order of the text.
        frozen_decoder: decoders stay random directions: a control, whose encoders alone learn.
    """

    tokens: int = 10_000_000
    batch: int = 2048
    learning_rate: float = 7e-4
    warm_up: float = 0.02
    decay: float = 0.2
    clip: float = 1.0
    anneal: float = 0.3
    k_start: float = 0.0
    dead_window: int = 300_000
    save_every: int = 200
    log_every: int = 10
    seed: int = 0
    frozen_decoder: bool = False

    def __post_init__(self) -> None:
        _need(
            "training",
            tokens=self.tokens >= self.batch,
            batch=1 <= self.batch <= 2**20,
            learning_rate=self.learning_rate > 0,
            warm_up=0 <= self.warm_up <= 1,
            decay=0 <= self.decay <= 1,
            clip=self.clip > 0,
            anneal=0 <= self.anneal <= 1,
            k_start=self.k_start >= 0,
            dead_window=self.dead_window >= 1,
            save_every=self.save_every >= 1,
            log_every=self.log_every >= 1,
            seed=0 <= self.seed < 2**31,
        )

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return self.tokens // self.batch


@dataclass(frozen=True)
class Settings:
    """Everything that a run is."""

    dictionary: Sites
    activation: Activation = field(default_factory=Activation)
    loss: Loss = field(default_factory=Loss)
    normalisation: Normalisation = field(default_factory=Normalisation)
    text: Text = field(default_factory=Text)
    training: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        a, penalty = self.activation, self.loss.penalty
        if a.function == "jumprelu" and penalty == "none":
            raise ConfigError("loss: jumprelu needs a penalty; expected step or target_l0.")
        if penalty in ("step", "target_l0") and a.function != "jumprelu":
            raise ConfigError(f"loss: {penalty} is for jumprelu; found {a.function}.")
        if a.selects and a.k > self.dictionary.features:
            raise ConfigError(f"activation: k {a.k} of {self.dictionary.features} features.")
        if self.loss.routing and self.dictionary.reads != ("resid_mid",):
            raise ConfigError("loss: routing is for an sae of resid_mid.")

    def values(self) -> dict[str, Any]:
        """The settings as JSON holds them."""
        return asdict(self)


PARTS = {
    "dictionary": Sites,
    "activation": Activation,
    "loss": Loss,
    "normalisation": Normalisation,
    "text": Text,
    "training": Schedule,
}


def settings_of(values: Mapping[str, Any]) -> Settings:
    """Settings from the parts of a TOML or JSON file.

    Raises:
        ConfigError: an unknown part or key, or a value outside its range.
    """
    for name in values:
        if name not in PARTS:
            raise ConfigError(f"Unknown part [{name!s:.60}]; known are {', '.join(PARTS)}.")
    if "dictionary" not in values:
        raise ConfigError("The part [dictionary] is missing.")
    given: dict[str, Any] = {}
    for name, own in values.items():
        if not isinstance(own, Mapping):
            raise ConfigError(f"{name} is {own!r:.40}; expected a part [{name}].")
        given[name] = from_values(PARTS[name], own, name)
    return Settings(**given)


def load_settings(file: str | Path) -> Settings:
    """The settings of a TOML file.

    Raises:
        ConfigError: it cannot be read, or see `settings_of`.
    """
    try:
        values = tomllib.loads(Path(file).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: no settings ({error!s:.120}).") from error
    try:
        return settings_of(values)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
