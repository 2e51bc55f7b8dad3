"""What other tools compute from their files, written anew in numpy, and small dictionaries of ours.

Axes: S sites read, B tokens, D width, F features.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.dictionary import Dictionary, as_float32, param_shapes
from grok.dictionaries.kinds.files import nested

D, F, B, K = 6, 10, 25, 3
SITES = {"sae": ("resid_mid", "resid_mid")}
FACTS = {"model": "one", "model_sha256": "a" * 64, "seed": 3}


def made(
    kind: str,
    function: str,
    layers: tuple[int, ...] = (0, 1, 2),
    *,
    skip: bool = False,
    facts: dict[str, Any] | None = None,
    sites: tuple[str, str] | None = None,
    **rule: Any,
) -> Dictionary:
    """A dictionary with random weights, thresholds and gates."""
    reads, writes = sites or SITES.get(kind, ("router.input", "moe.normed"))
    experts = 2 if kind == "expert_transcoder" else 0
    design = Design(kind, layers, (reads,), (writes,), F, D, skip, experts)
    activation = Activation(function, K, **rule)
    rng = np.random.default_rng(7)
    shapes = param_shapes(design, activation)
    arrays = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    for name in ("threshold", "gate"):
        if name in arrays:
            arrays[name] = np.abs(arrays[name]) + 0.1
    return Dictionary(design, activation, as_float32(nested(arrays)), facts or dict(FACTS))


def tokens(dictionary: Dictionary) -> np.ndarray:
    """Values of the sites that a dictionary reads [S, B, D]."""
    n = len(dictionary.design.sources)
    return np.random.default_rng(1).standard_normal((n, B, D))


def largest(values: np.ndarray, k: int) -> np.ndarray:
    """Which values [B, F] are among the k largest of their token."""
    mask = np.zeros(values.shape, bool)
    np.put_along_axis(mask, np.argsort(-values, axis=1)[:, :k], True, axis=1)
    return mask


def ours(dictionary: Dictionary, x: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Features [B, F] of each group, and what is written [M, B, D]."""
    design, p, rule = dictionary.design, dictionary.params, dictionary.activation
    features = []
    for g, group in enumerate(design.groups):
        pre = x[group.reads[0]] @ p["encoder"][g][0].astype(float) + p["encoder_bias"][g]
        if rule.function == "topk":
            mask = largest(pre * p["gate"][g], rule.k) & (pre > 0)
        else:
            mask = pre > (p["threshold"][g] if rule.function == "jumprelu" else 0)
        features.append(np.where(mask, pre, 0.0))
    out = np.repeat(p["decoder_bias"][:, None].astype(float), B, axis=1)
    for g, group in enumerate(design.groups):
        for w, target in enumerate(group.writes):
            out[target] += features[g] @ p["decoder"][g][:, w]
    if design.skip:
        out += np.einsum("sbd,sde->sbe", x, p["skip"])
    return features, out


def same(a: tuple[list[np.ndarray], np.ndarray], b: tuple[list[np.ndarray], np.ndarray]) -> None:
    """Asserts that the same features are active and the same is written."""
    for one, other in zip(a[0], b[0], strict=True):
        np.testing.assert_array_equal(one != 0, other != 0)
        assert 0 < (one != 0).mean() < 1
    np.testing.assert_allclose(a[1], b[1], atol=1e-5)


def saelens(folder: Path, x: np.ndarray, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Features and output of SAELens 6.54.12 for values [B, D]; `scale` as its trainer applies."""
    cfg = json.loads((folder / "cfg.json").read_text())
    stored = load_file(folder / "sae_weights.safetensors")
    w = {name: value.astype(float) for name, value in stored.items()}
    kind = cfg["architecture"]
    given = x * scale
    if "transcoder" not in kind and cfg.get("apply_b_dec_to_input", True):
        given = given - w["b_dec"]
    pre = given @ w["W_enc"] + w["b_enc"]
    norms = np.linalg.norm(w["W_dec"], axis=1)
    if cfg.get("rescale_acts_by_decoder_norm"):
        pre = pre * norms
    f = np.maximum(pre, 0)
    if kind == "topk":
        f = f * largest(pre, cfg["k"])
    elif "threshold" in w or "topk_threshold" in w:
        f = f * (pre > w.get("threshold", w.get("topk_threshold")))
    out = (f / norms if cfg.get("rescale_acts_by_decoder_norm") else f) @ w["W_dec"] + w["b_dec"]
    out = out / scale
    return f, out + x @ w["W_skip"].T if "W_skip" in w else out


def circuit_tracer(folder: Path, x: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Features and output of circuit-tracer 0.5.0 for values [L, B, D]."""
    features, out, n = [], [], len(x)
    if (folder / "W_enc_0.safetensors").exists():
        decoders = []
        for i in range(n):
            w = load_file(folder / f"W_enc_{i}.safetensors")
            pre = np.einsum("bd,fd->bf", x[i], w[f"W_enc_{i}"]) + w[f"b_enc_{i}"]
            features.append(pre * (pre > w.get(f"threshold_{i}", 0)))
            out.append(np.tile(w[f"b_dec_{i}"].astype(float), (B, 1)))
            decoders.append(load_file(folder / f"W_dec_{i}.safetensors")[f"W_dec_{i}"])
        for i in range(n):
            for j in range(n - i):
                out[i + j] += features[i] @ decoders[i][:, j]
        return features, np.stack(out)
    for i in range(n):
        w = load_file(folder / f"layer_{i}.safetensors")
        pre = x[i] @ w["W_enc"].T.astype(float) + w["b_enc"]
        features.append(pre * (pre > w.get("activation_function.threshold", 0)))
        own = features[i] @ w["W_dec"] + w["b_dec"]
        out.append(own + x[i] @ w["W_skip"].T if "W_skip" in w else own)
    return features, np.stack(out)


def sparsify(folder: Path, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features and output of sparsify 1.3.3 for values [B, D]."""
    cfg, w = json.loads((folder / "cfg.json").read_text()), load_file(folder / "sae.safetensors")
    given = x if cfg["transcode"] else x - w["b_dec"]
    pre = np.maximum(given @ w["encoder.weight"].T.astype(float) + w["encoder.bias"], 0)
    f = pre * largest(pre, cfg["k"])
    out = f @ w["W_dec"] + w["b_dec"]
    return f, out + x @ w["W_skip"].T if cfg["skip_connection"] else out
