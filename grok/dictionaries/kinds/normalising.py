"""Units in which a dictionary is trained, and how they are folded into its parameters.

While training, values are shifted and scaled, x' = (x − μ)·s and y' = (y − ν)·t, each a number for
every dimension of every site:

- `none`: μ 0, s 1.
- `scalar`: s makes the mean squared norm D.
- `centred`: μ is the mean, and s makes the mean squared norm of what is left D.
- `per_dim`: μ is the mean, and s makes the standard deviation of each dimension 1.

Folding gives parameters that read x and write y themselves. Pre-activations keep their values, so
thresholds and the norms they are gated by stay as they are: with W_e, b_e, W_d, b_d in the units
of training, W_e → s·W_e and b_e → b_e − (s·W_e)ᵀμ, W_d → W_d/t and b_d → b_d/t + ν.

Axes: S sites, B tokens, D width. No JAX here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from grok.dictionaries.kinds.design import Design
from grok.errors import ConfigError, GrokError

NORMALISATIONS = ("none", "scalar", "centred", "per_dim")
SMALLEST = 1e-12


@dataclass(frozen=True)
class Units:
    """Shift and scale of some sites, and what their values are like.

    Attributes:
        shift, scale: μ and s, [S, D] float64.
        mean: of the values [S, D], as the model has them.
        variances: of each dimension [S, D], likewise.
    """

    shift: np.ndarray
    scale: np.ndarray
    mean: np.ndarray
    variances: np.ndarray

    @property
    def denominators(self) -> np.ndarray:
        """E‖x' − E x'‖² of each site [S] in the units of training."""
        return np.maximum(np.sum(self.scale**2 * self.variances, axis=1), SMALLEST)


def measured(values: np.ndarray, normalisation: str) -> Units:
    """The units of values [S, B, D].

    Raises:
        ConfigError: no such normalisation.
        GrokError: values that are not finite.
    """
    if normalisation not in NORMALISATIONS:
        raise ConfigError(
            f"normalisation {normalisation!r:.40}; expected one of {', '.join(NORMALISATIONS)}."
        )
    n, _, d = values.shape
    mean, variances, square = (np.zeros((n, d)) for _ in range(3))
    for i, site in enumerate(values):  # one at a time: float64 copies are large
        wide = site.astype(np.float64)
        mean[i] = wide.mean(axis=0)
        square[i] = np.square(wide).mean(axis=0)
        variances[i] = np.square(wide - mean[i]).mean(axis=0)
    if not np.isfinite(variances).all():
        raise GrokError("Activations are not finite, so nothing can be learned from them.")
    shift, scale = np.zeros((n, d)), np.ones((n, d))
    if normalisation == "scalar":
        scale *= np.sqrt(d / np.maximum(square.sum(axis=1, keepdims=True), SMALLEST))
    elif normalisation == "centred":
        shift = mean.copy()
        scale *= np.sqrt(d / np.maximum(variances.sum(axis=1, keepdims=True), SMALLEST))
    elif normalisation == "per_dim":
        shift = mean.copy()
        scale = 1 / np.sqrt(np.maximum(variances, SMALLEST))
    return Units(shift, scale, mean, variances)


def folded(
    design: Design, params: Mapping[str, Any], reads: Units, writes: Units
) -> dict[str, Any]:
    """Parameters that read and write values as the model has them.

    Args:
        design: of the dictionary.
        params: in the units of training; see `grok.dictionaries.kinds.parameters`.
        reads, writes: those units.

    Returns:
        The same names, float64 arrays.
    """
    out: dict[str, Any] = {"encoder": [], "decoder": []}
    biases = []
    for i, group in enumerate(design.groups):
        bias = np.asarray(params["encoder_bias"][i], np.float64)
        encoder = np.asarray(params["encoder"][i], np.float64)  # [R, D, F]
        encoder = encoder * reads.scale[list(group.reads)][:, :, None]
        for r, site in enumerate(group.reads):
            bias = bias - reads.shift[site] @ encoder[r]
        decoder = np.asarray(params["decoder"][i], np.float64)  # [F, W, D]
        out["encoder"].append(encoder)
        out["decoder"].append(decoder / writes.scale[list(group.writes)])
        biases.append(bias)
    out["encoder_bias"] = np.stack(biases)
    bias = np.asarray(params["decoder_bias"], np.float64) / writes.scale + writes.shift
    if design.skip:
        skip = np.asarray(params["skip"], np.float64)
        skip = skip * reads.scale[:, :, None] / writes.scale[:, None, :]
        out["skip"] = skip
        bias = bias - np.einsum("sd,sde->se", reads.shift, skip)
    out["decoder_bias"] = bias
    if "threshold" in params:
        out["threshold"] = np.asarray(params["threshold"], np.float64)
    return out
