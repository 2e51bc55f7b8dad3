"""Dictionaries with random weights: exactness needs no training."""

from __future__ import annotations

import numpy as np

from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.dictionary import Dictionary, as_float32

SITES = {
    "sae": ("resid_mid", "resid_mid"),
    "crosscoder": ("resid_mid", "resid_mid"),
    "transcoder": ("router.input", "moe.normed"),
    "clt": ("router.input", "moe.normed"),
}


def random_dictionary(
    model, kind: str, layers: tuple[int, ...] | None = None, *, skip: bool = False, seed: int = 3
) -> Dictionary:
    """A `jumprelu` dictionary whose features are active about every other time."""
    config = model.config
    d, f = config.d_model, 24
    own = tuple(config.moe_layers) if layers is None else layers
    reads, writes = SITES[kind]
    design = Design(kind, own, (reads,), (writes,), f, d, skip)
    rng = np.random.default_rng(seed)
    n = len(design.groups)
    params = {
        "encoder": [rng.standard_normal((len(g.reads), d, f)) / d**0.5 for g in design.groups],
        "encoder_bias": rng.standard_normal((n, f)) / 4,
        "decoder": [rng.standard_normal((f, len(g.writes), d)) / 20 for g in design.groups],
        "decoder_bias": rng.standard_normal((len(design.targets), d)) / 10,
        "threshold": rng.random((n, f)) / 4,
    }
    if skip:
        params["skip"] = rng.standard_normal((len(design.targets), d, d)) / (10 * d)
    return Dictionary(design, Activation("jumprelu"), as_float32(params), {})
