"""Frequencies of rotary embeddings, from either spelling of config.json."""

from __future__ import annotations

import math

import numpy as np

from grok.architectures.huggingface.config import Rope
from grok.architectures.huggingface.settings import Settings
from grok.errors import ConfigError, plain

SUPPORTED = ("default", "linear", "yarn", "llama3", "longrope")


def parameters(settings: Settings) -> Settings:
    """What the config says of rotation: `rope_parameters`, else `rope_scaling`, else nothing."""
    for key in ("rope_parameters", "rope_scaling"):
        if settings.has(key):
            return settings.part(key)
    return Settings({}, f"{settings.where}: rope_scaling")


def base(settings: Settings, default: float) -> float:
    """The base of the frequencies.

    Args:
        settings: the config.
        default: of the family, where the config does not say.
    """
    inner = parameters(settings)
    found = inner if inner.has("rope_theta") else settings
    return float(found.number("rope_theta", default))


def turned_width(settings: Settings, d_head: int, default: float) -> int:
    """The part of a head that turns, in dimensions.

    Args:
        settings: the config.
        d_head: width of a head.
        default: share that turns where the config does not say.
    """
    if settings.has("rotary_dim"):
        return int(settings.whole("rotary_dim", most=d_head))
    inner = parameters(settings)
    found = inner if inner.has("partial_rotary_factor") else settings
    share = float(found.number("partial_rotary_factor", default))
    if share > 1:
        raise found.error("partial_rotary_factor", "a share up to 1")
    return int(d_head * share)


def read_rope(settings: Settings, width: int, theta: float, *, pairs: bool = False) -> Rope:
    """The rotary embedding of a model.

    Args:
        settings: the config.
        width: dimensions of a head that turn, R.
        theta: base of the frequencies.
        pairs: neighbours turn together.

    Raises:
        ConfigError: a kind of scaling that is not computed here, or values that make no sense.
    """
    if width < 2 or width % 2:
        raise ConfigError(f"{settings.where}: {width} dimensions of a head turn; expected pairs.")
    inner = parameters(settings)
    kind = inner.text("rope_type", inner.text("type", "default"))
    plain_ones = theta ** (-np.arange(0, width, 2, dtype=np.float64) / width)
    if kind == "default":
        return Rope(_frozen(plain_ones), 1.0, pairs)
    if kind == "linear":
        return Rope(_frozen(plain_ones / inner.number("factor")), 1.0, pairs)
    if kind == "yarn":
        return _yarn(settings, inner, plain_ones, theta, pairs)
    if kind == "llama3":
        return _llama3(inner, plain_ones, pairs)
    if kind == "longrope":
        short = np.array(inner.numbers("short_factor", width // 2))
        return Rope(_frozen(plain_ones / short), inner.number("short_mscale", 1.0), pairs)
    raise ConfigError(
        f"{inner.where}: rotary embedding of type '{plain(kind, 40)}'; expected one of "
        f"{', '.join(SUPPORTED)}. This kind is not supported here."
    )


def _yarn(
    settings: Settings, inner: Settings, frequencies: np.ndarray, theta: float, pairs: bool
) -> Rope:
    """Slow dimensions turn `factor` times slower, fast ones as before, with a ramp between."""
    width = 2 * len(frequencies)
    factor = float(inner.number("factor"))
    original = float(
        inner.whole(
            "original_max_position_embeddings", default=settings.whole("max_position_embeddings")
        )
    )

    def turns(rotations: float) -> float:
        """The dimension that turns so often in the original context."""
        return width * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = turns(float(inner.number("beta_fast", 32.0)))
    high = turns(float(inner.number("beta_slow", 1.0)))
    if inner.flag("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(len(frequencies)) - low) / (high - low), 0, 1)
    own = frequencies * (1 - ramp) + frequencies / factor * ramp
    if inner.has("attention_factor"):
        scale = float(inner.number("attention_factor"))
    else:
        one = float(inner.number("mscale", 0.0, positive=False))
        all_ = float(inner.number("mscale_all_dim", 0.0, positive=False))
        both = one and all_
        scale = magnitude(factor, one) / magnitude(factor, all_) if both else magnitude(factor, 1.0)
    return Rope(_frozen(own), scale, pairs)


def magnitude(factor: float, by: float) -> float:
    """YaRN's growth of attention's logits with the factor of the context."""
    return 0.1 * by * math.log(factor) + 1 if factor > 1 else 1.0


def _llama3(inner: Settings, frequencies: np.ndarray, pairs: bool) -> Rope:
    """Long waves are stretched by `factor`, short ones kept, those between blended."""
    factor = float(inner.number("factor"))
    low, high = float(inner.number("low_freq_factor")), float(inner.number("high_freq_factor"))
    if high <= low:
        raise inner.error("high_freq_factor", f"more than low_freq_factor, {low:g}")
    original = float(inner.whole("original_max_position_embeddings"))
    ratio = original * frequencies / (2 * math.pi)  # original context over wavelength
    blend = np.clip((ratio - low) / (high - low), 0, 1)
    return Rope(_frozen((1 - blend) * frequencies / factor + blend * frequencies), 1.0, pairs)


def _frozen(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
