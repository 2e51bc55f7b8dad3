"""SAELens: a folder a layer with `cfg.json` and `sae_weights.safetensors`.

Read in version 6.54.12, whose files have W_enc [D, F], W_dec [F, D], b_enc, b_dec, `threshold`
where features have one, and W_skip [D, D] that is multiplied from the right, transposed. Older
configs, without `metadata`, are read as that version reads them.

Axes: D width, F features. No JAX here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from grok.dictionaries.exchange.hooks import full_hook, layer_of, site_of
from grok.dictionaries.exchange.opening import (
    Shape,
    Tensors,
    Values,
    check_amount,
    config_of,
    refused,
    write_json,
    write_tensors,
)
from grok.dictionaries.exchange.single import (
    OWN,
    Coder,
    own_facts,
    put_together,
    taken_apart,
)
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.errors import GrokError, plain

VERSION = "6.54.12"
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
# What an architecture is: our rule, and whether it has other outputs and a skip.
RULES = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "batchtopk": "jumprelu",
    "matryoshka_batchtopk": "jumprelu",
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
BATCH = ("batchtopk", "matryoshka_batchtopk")
NORMS = {
    "constant_norm_rescale": "each token is brought to one length first, which no fold gives",
    "layer_norm": "each token is normed first, which no fold gives",
    "covariance_whitening": "the matrix that values are whitened with is not in these files",
}
REASONS = {
    "scaling_factor": "Features were scaled once more after training; fold that into W_dec first.",
}


def write_saelens(folder: Path, dictionary: Dictionary) -> list[Path]:
    """Writes a folder for each group of an autoencoder or a transcoder; the folders.

    Raises:
        GrokError: it is of another kind, has `topk` with other outputs, groups that share their
            budget or thresholds below 0, or cannot be written.
    """
    written = []
    for coder in taken_apart(dictionary, "SAELens", ("sae", "transcoder")):
        other = dictionary.design.kind == "transcoder"
        if other and coder.function == "topk":
            raise GrokError(
                f"SAELens: layer {coder.layer}: found a transcoder with the {coder.k} largest of a "
                "token; expected relu or jumprelu, since it has no other transcoders. Export it "
                "for sparsify, or train with batch_topk, which ends with thresholds."
            )
        if coder.threshold is not None and (coder.threshold < 0).any():
            n = int(np.argmin(coder.threshold))
            raise GrokError(
                f"SAELens: layer {coder.layer}, feature {n}: found a threshold of "
                f"{coder.threshold[n]:g}; expected at least 0, since it takes what is above 0 "
                "first. Train the dictionary again."
            )
        own = folder / full_hook(coder.layer, coder.reads)
        arrays = {
            "W_enc": coder.encoder,
            "W_dec": coder.decoder,
            "b_enc": coder.encoder_bias,
            "b_dec": coder.decoder_bias,
        }
        if coder.threshold is not None:
            arrays["threshold"] = coder.threshold
        if coder.skip is not None:
            arrays["W_skip"] = coder.skip.T
        write_tensors(own / WEIGHTS, arrays)
        write_json(own / CONFIG, _config(coder, other))
        written.append(own)
    return written


def _config(coder: Coder, other: bool) -> dict[str, Any]:
    d, f = coder.encoder.shape
    names = ["skip"] * (coder.skip is not None) + ["transcoder"] * other
    rule = {"relu": "standard"}.get(coder.function, coder.function)
    if other:
        rule = "_".join([*([rule] if rule != "standard" else []), *names])
    hooks = {"hook_name": full_hook(coder.layer, coder.reads)}
    if other:
        hooks["hook_name_out"] = full_hook(coder.layer, coder.writes)
    values: dict[str, Any] = {
        "architecture": rule,
        "d_in": d,
        "d_sae": f,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": False,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": VERSION,
            "model_name": str(coder.facts.get("model", "")),
            **hooks,
            OWN: own_facts(coder),
        },
    }
    if other:
        values["d_out"] = d
    if coder.function == "topk":
        values |= {"k": coder.k, "rescale_acts_by_decoder_norm": False}
    return values


def read_saelens(
    folder: Path,
    *,
    reads: str | None = None,
    writes: str | None = None,
    scale: float | None = None,
) -> Dictionary:
    """The dictionary of a folder with `cfg.json`, or of all such folders in it.

    Args:
        folder: to be read; nothing in it is executed.
        reads, writes: sites, where the hooks in the file do not say which.
        scale: that values were multiplied by, where normalize_activations is
            `expected_average_only_in` and was not folded.

    Raises:
        GrokError: it is none, lies, or is of a sort that cannot be said here exactly.
    """
    coders, kinds = [], set()
    for own in folders_of(folder, CONFIG):
        config = Values(own / CONFIG, _modern(own / CONFIG))
        coder = _coder(own, config, (reads, writes), scale)
        coders.append(coder)
        kinds.add("transcoder" if "transcoder" in config.text("architecture") else "sae")
    if len(kinds) > 1:
        raise refused(
            folder, "autoencoders and transcoders", "one of them", "Import them one by one."
        )
    return put_together(folder, coders, *(kinds or {"sae"}))


def folders_of(folder: Path, name: str) -> Iterator[Path]:
    """The folder itself where it has such a file, else its folders that have one."""
    if (folder / name).is_file():
        yield folder
        return
    found = sorted(one.parent for one in folder.glob(f"*/{name}"))
    if not found:
        raise refused(
            folder, f"no {name}", "one in it, or in folders in it",
            "Name the folder of the dictionary.",
        )  # fmt: skip
    if len(found) > 1000:
        raise refused(folder, f"{len(found):,} folders", "at most 1,000", "Name one of them.")
    yield from found


def _modern(file: Path) -> Mapping[str, Any]:
    """A config as today's version reads it, whenever it was written."""
    values = dict(config_of(file))
    if "metadata" in values:
        return values
    values["metadata"] = {
        name: values[name]
        for name in ("model_name", "hook_name", "hook_name_out")
        if name in values
    }
    if "hook_point" in values:
        values["metadata"]["hook_name"] = values["hook_point"]
    function = values.get("activation_fn_str", values.get("activation_fn")) or "relu"
    more = values.get("activation_fn_kwargs")
    if function == "topk" and isinstance(more, dict):
        values |= {"architecture": "topk", "k": more.get("k")}
    elif function != "relu":
        raise refused(
            file, f"activation function {plain(str(function), 40)}", "relu or topk",
            "No rule here is this one.",
        )  # fmt: skip
    norm = values.get("normalize_activations")
    if isinstance(norm, bool):
        values["normalize_activations"] = "expected_average_only_in" if norm else "none"
    values.setdefault("architecture", "standard")
    return values


def _coder(
    folder: Path, config: Values, sites: tuple[str | None, str | None], scale: float | None
) -> Coder:
    architecture = config.text("architecture")
    if architecture not in RULES:
        raise config.wrong(
            "architecture", ", ".join(RULES),
            "No rule here is this one. Where its training can end in another form "
            "(as batchtopk ends in jumprelu), save that.",
        )  # fmt: skip
    if config.text("reshape_activations", "none") != "none":
        raise config.wrong(
            "reshape_activations", "none", "Values of heads are no site of width d_model here."
        )
    other = "transcoder" in architecture
    d, f = config.size("d_in"), config.size("d_sae")
    if other and config.size("d_out") != d:
        raise config.wrong("d_out", f"{d}, as d_in", "Both sites have the model's width here.")
    check_amount(folder, d * (2 * f + 1 + d * ("skip" in architecture)) + f)
    tensors = Tensors(folder / WEIGHTS)
    expected = _shapes(architecture, d, f)
    tensors.check(expected, REASONS)
    given = {name: tensors.read(name).astype(np.float64) for name in expected}
    s = _scale(config, other, scale)
    return _named(_math(config, architecture, given, s), folder, config, sites)


def _shapes(architecture: str, d: int, f: int) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {"W_enc": (d, f), "W_dec": (f, d), "b_enc": (f,), "b_dec": (d,)}
    if architecture in BATCH:
        shapes["topk_threshold"] = ()
    elif RULES[architecture] == "jumprelu":
        shapes["threshold"] = (f,)
    if "skip" in architecture:
        shapes["W_skip"] = (d, d)
    return shapes


def _scale(config: Values, other: bool, scale: float | None) -> float:
    """What values are multiplied by before anything else."""
    norm = config.text("normalize_activations", "none")
    if norm == "none":
        if scale is not None:
            raise config.wrong(
                "normalize_activations", "expected_average_only_in", "Leave --scale out."
            )
        return 1.0
    if norm != "expected_average_only_in" or other:
        why = NORMS.get(norm, "outputs have another scale, which the file does not say")
        raise config.wrong(
            "normalize_activations", "none", f"As it is, {why}. Fold it with SAELens first."
        )
    if scale is None or not 0 < scale < float("inf"):
        raise config.wrong(
            "normalize_activations", "none",
            "The number that values are multiplied by is not in the file: give it with --scale, "
            "or fold it with SAELens first.",
        )  # fmt: skip
    return scale


def _math(config: Values, architecture: str, given: Mapping[str, np.ndarray], s: float) -> Coder:
    """Everything folded: scale, norms of decoders, and the bias taken off the input."""
    encoder, decoder = given["W_enc"] * s, given["W_dec"] / s
    bias, out = given["b_enc"], given["b_dec"] / s
    rule, threshold = RULES[architecture], None
    if rule == "jumprelu" and architecture not in BATCH:
        threshold = np.maximum(given["threshold"], 0.0)  # it takes what is above 0 first
    if config.flag("rescale_acts_by_decoder_norm", False):
        if architecture not in ("topk", *BATCH):
            raise config.wrong(
                "rescale_acts_by_decoder_norm", "false", "Only topk and batchtopk have it."
            )
        norms = np.linalg.norm(decoder, axis=1)
        encoder, bias = encoder * norms, bias * norms
        decoder = decoder / np.maximum(norms, 1e-30)[:, None]
        if architecture in BATCH:
            threshold = np.full(len(bias), float(given["topk_threshold"]) / s)
    elif architecture in BATCH:
        threshold = np.full(len(bias), float(given["topk_threshold"]))
    if config.flag("apply_b_dec_to_input", "transcoder" not in architecture):
        if "transcoder" in architecture:
            raise config.wrong("apply_b_dec_to_input", "false", "No transcoder has it.")
        bias = bias - out @ encoder
    k = 1
    if rule == "topk":
        k = config.size("k")
        if k > len(bias):
            raise config.wrong("k", f"at most {len(bias)}, the features", "Copy the config again.")
    skip = given["W_skip"].T if "W_skip" in given else None
    if threshold is not None:
        threshold = np.maximum(threshold, 0.0)
    return Coder(0, "", "", encoder, bias, decoder, out, rule, k, threshold, skip)


def _named(
    coder: Coder, folder: Path, config: Values, sites: tuple[str | None, str | None]
) -> Coder:
    """The coder with its layer, sites and facts."""
    meta = Values(config.where, config.part("metadata"))
    own = Values(config.where, meta.part(OWN))
    hook = meta.text("hook_name") or folder.name
    named = own_sites(own, sites)
    reads = site_of(config.where, hook, named[0], "--reads")
    writes = reads
    if "transcoder" in config.text("architecture"):
        writes = site_of(config.where, meta.text("hook_name_out"), named[1], "--writes")
    layer = layer_of(config.where, hook)
    facts = own.part("facts") or {"model": meta.text("model_name")}
    return replace(coder, layer=layer, reads=reads, writes=writes, facts=facts)


def own_sites(own: Values, sites: tuple[str | None, str | None]) -> tuple[str | None, str | None]:
    """The sites that the person names, else those that our own export wrote."""
    return sites[0] or own.text("reads") or None, sites[1] or own.text("writes") or None
