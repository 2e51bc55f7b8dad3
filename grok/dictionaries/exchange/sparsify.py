"""sparsify: a folder a module with `cfg.json` and `sae.safetensors`.

Read in version 1.3.3 (`eai-sparsify`), whose files have encoder.weight [F, D], encoder.bias,
W_dec [F, D], b_dec, and W_skip [D, D], multiplied from the right, transposed. Its rule is the k
largest of a token above 0; autoencoders take b_dec off their input, transcoders do not.

Axes: D width, F features. No JAX here.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

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
from grok.dictionaries.exchange.saelens import folders_of, own_sites
from grok.dictionaries.exchange.single import OWN, Coder, own_facts, put_together, taken_apart
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.errors import GrokError

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"


def write_sparsify(folder: Path, dictionary: Dictionary) -> list[Path]:
    """Writes a folder for each group of an autoencoder or a transcoder; the folders.

    `relu` is said as the F largest.

    Raises:
        GrokError: it is of another kind, has thresholds or groups that share their budget, or
            cannot be written.
    """
    written = []
    for coder in taken_apart(dictionary, "sparsify", ("sae", "transcoder")):
        if coder.threshold is not None:
            raise GrokError(
                f"sparsify: layer {coder.layer}: found a threshold for each feature; expected the "
                "k largest of a token, since it has no other rule. Export it for SAELens or "
                "circuit-tracer, or train with topk."
            )
        d, f = coder.encoder.shape
        other = dictionary.design.kind == "transcoder"
        bias = coder.encoder_bias
        if not other:  # what is taken off the input there is put back here
            bias = bias + coder.decoder_bias @ coder.encoder
        arrays = {
            "encoder.weight": coder.encoder.T,
            "encoder.bias": bias,
            "W_dec": coder.decoder,
            "b_dec": coder.decoder_bias,
        }
        if coder.skip is not None:
            arrays["W_skip"] = coder.skip.T
        values: dict[str, Any] = {
            "activation": "topk",
            "expansion_factor": max(1, f // d),
            "normalize_decoder": False,
            "num_latents": f,
            "k": coder.k if coder.function == "topk" else f,
            "multi_topk": False,
            "skip_connection": coder.skip is not None,
            "transcode": other,
            "d_in": d,
            OWN: own_facts(coder),
        }
        own = folder / full_hook(coder.layer, coder.reads)
        write_tensors(own / WEIGHTS, arrays)
        write_json(own / CONFIG, values)
        written.append(own)
    return written


def read_sparsify(
    folder: Path, *, reads: str | None = None, writes: str | None = None
) -> Dictionary:
    """The dictionary of a folder with `cfg.json`, or of all such folders in it.

    The name of a folder says its module: `layers.5` is the stream that leaves layer 5; of another,
    such as `layers.5.mlp`, the sites have to be named.

    Args:
        folder: to be read; nothing in it is executed.
        reads, writes: sites, where the name does not say which.

    Raises:
        GrokError: it is none, lies, or is of a sort that cannot be said here exactly.
    """
    coders, kinds = [], set()
    for own in folders_of(folder, CONFIG):
        config = Values(own / CONFIG, config_of(own / CONFIG))
        other = config.flag("transcode", False)
        kinds.add("transcoder" if other else "sae")
        coders.append(_named(_coder(own, config, other), config, other, (reads, writes)))
    if len(kinds) > 1:
        raise refused(
            folder, "autoencoders and transcoders", "one of them", "Import them one by one."
        )
    return put_together(folder, coders, *kinds)


def _coder(folder: Path, config: Values, other: bool) -> Coder:
    if config.text("activation", "topk") != "topk":
        raise config.wrong(
            "activation", "topk", "The largest of each of some groups is no rule here."
        )
    skip = config.flag("skip_connection", False)
    if skip and not other:
        raise config.wrong(
            "skip_connection", "false", "An autoencoder with a skip would copy its input."
        )
    d, k = config.size("d_in"), config.size("k")
    f = config.size("num_latents") if config.given("num_latents") else 0
    f = f or d * config.size("expansion_factor")
    check_amount(folder, d * (2 * f + d) + f)
    if k > f:
        raise config.wrong("k", f"at most {f}, the features", "Copy the config again.")
    shapes: dict[str, Shape] = {
        "encoder.weight": (f, d), "encoder.bias": (f,), "W_dec": (f, d), "b_dec": (d,),
    }  # fmt: skip
    if skip:
        shapes["W_skip"] = (d, d)
    tensors = Tensors(folder / WEIGHTS)
    tensors.check(shapes, {})
    encoder = tensors.read("encoder.weight").T
    bias, out = tensors.read("encoder.bias"), tensors.read("b_dec")
    if not other:
        bias = bias - out.astype(float) @ encoder
    return Coder(
        0, "", "", encoder, bias, tensors.read("W_dec"), out, "topk", k,
        skip=tensors.read("W_skip").T if skip else None,
    )  # fmt: skip


def _named(
    coder: Coder, config: Values, other: bool, sites: tuple[str | None, str | None]
) -> Coder:
    """The coder with its layer, sites and facts."""
    name = config.where.parent.resolve().name
    own = Values(config.where, config.part(OWN))
    named = own_sites(own, sites)
    reads = site_of(config.where, name, named[0], "--reads")
    writes = site_of(config.where, name, named[1], "--writes") if other else reads
    layer = layer_of(config.where, name)
    return replace(coder, layer=layer, reads=reads, writes=writes, facts=own.part("facts"))
