"""From trained float weights to the folder that ships: int8, measured, with its card.

The float weights are written as a checkpoint too, and both go through the same
runner, so the comparison of float and int8 is one of weights alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from grok.architectures.architecture import all_specs
from grok.architectures.grok1 import Grok1
from grok.checkpoints.grok1 import write_checkpoint
from grok.checkpoints.tensor_file import BFLOAT16, QuantizedWeight8bit, Tensor
from grok.config import GrokConfig
from grok.runner.loading import Model, load
from grok.training import card, evaluation
from grok.training.corpus import WEIGHTS, Domain, EncodedDomain
from grok.training.step import by_path

WINDOW = 256
SAMPLING: dict[str, Any] = {"max_new_tokens": 60, "temperature": 0.8, "top_p": 0.95, "seed": 0}


def quantize(weight: np.ndarray, groups: int) -> QuantizedWeight8bit:
    """Nearest int8 of each column and group of rows, the largest value at 127.

    The scale is rounded to bfloat16 first, so that rounding costs no accuracy of the int8.

    Args:
        weight: float [..., K, N].
        groups: G, dividing K.
    """
    *lead, rows, columns = weight.shape
    grouped = weight.astype(np.float32).reshape(*lead, groups, rows // groups, columns)
    largest = np.abs(grouped).max(axis=-2)  # [..., G, N]
    scales = np.where(largest > 0, largest / 127, 1).astype(BFLOAT16)
    steps = np.rint(grouped / scales.astype(np.float32)[..., None, :])
    return QuantizedWeight8bit(
        np.clip(steps, -127, 127).astype(np.int8).reshape(weight.shape), scales
    )


def quantized_tensors(config: GrokConfig, weights: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Every matrix as int8 in the groups of the release; embedding, norms, routers float32."""
    specs = {spec.names[0]: spec for spec in all_specs(Grok1(config))}
    return {
        path: quantize(value, specs[path].scale_groups)
        if specs[path].quantizable
        else value.astype(np.float32)
        for path, value in weights.items()
    }


def export(
    config: GrokConfig,
    params: Mapping[str, Any],
    settings: Mapping[str, Any],
    domains: Mapping[str, Domain],
    encoded: Mapping[str, EncodedDomain],
    tokenizer_file: Path,
    output: Path,
    work: Path,
) -> None:
    """Writes the int8 checkpoint, the tokenizer, the card and `card.json` to `output`.

    Args:
        config: shape of the model.
        params: trained weights, as `grok.training.step` keeps them.
        settings: of the run, for the card.
        domains, encoded: the text, for its held-out part.
        tokenizer_file: SentencePiece model of the run.
        output: appears whole, when everything is measured.
        work: folder of the run; intermediate checkpoints go there.
    """
    weights = by_path(config, params)
    extra = {"tokenizer.model": tokenizer_file}
    models = {}
    for name, tensors in (("float", weights), ("int8", quantized_tensors(config, weights))):
        folder = work / name
        if folder.exists():
            shutil.rmtree(folder)
        write_checkpoint(folder, config, tensors, extra_files=extra)
        models[name] = load(folder, dtype="float32", mesh=(1, 1))
    results = measure(config, models, settings, domains, encoded, work)
    card.write_card(results, work / "int8")
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.exists():
        output.rmdir()
    shutil.move(work / "int8", output)
    print(f"exported {output}", flush=True)


def measure(
    config: GrokConfig,
    models: Mapping[str, Model],
    settings: Mapping[str, Any],
    domains: Mapping[str, Domain],
    encoded: Mapping[str, EncodedDomain],
    work: Path,
) -> dict[str, Any]:
    """The results that the card is written from; "float" and "int8" are the `models`."""
    bundled = models["int8"]
    if bundled.tokenizer is None:
        raise ValueError("the exported model has no tokenizer")
    windows = evaluation.heldout_windows(encoded, WINDOW)
    measured = {}
    for name, model in models.items():
        print(f"measuring {name} weights on held-out text", flush=True)
        measured[name] = evaluation.measure(_forward(model), windows)
    samples = [
        {
            "domain": domain,
            "prompt": prompt,
            "continuation": bundled.generate(prompt, **SAMPLING).text,
            **SAMPLING,
        }
        for domain, prompt in card.PROMPTS
    ]
    folder = work / "int8"
    size = sum(file.stat().st_size for file in (folder / "ckpt-0").iterdir())
    pieces = evaluation.token_bytes(_sentencepiece(folder / "tokenizer.model"))
    return {
        "model": card.model_facts(config, checkpoint_bytes=size, sha256=bundled.sha256),
        "data": card.data_facts(domains, encoded, WEIGHTS),
        "training": {**settings, **progress_facts(work)},
        "evaluation": evaluation.evaluation_summary(
            measured, encoded, windows, pieces, bundled.config.n_experts
        ),
        "samples": samples,
    }


def _sentencepiece(file: Path) -> Any:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(file))


def _forward(model: Model) -> evaluation.Forward:
    def forward(tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        result = model.forward(tokens)
        return result.logits, result.experts

    return forward


def progress_facts(work: Path) -> dict[str, Any]:
    """Tokens read, hours spent and the last losses, from the log of the run."""
    file = work / "metrics.jsonl"
    if not file.exists():
        return {}
    lines = [*map(_line, file.read_text(encoding="utf-8", errors="replace").splitlines())]
    by_step = {line["step"]: line for line in lines if line}  # a resumed run may log a step twice
    if not by_step:
        return {}
    last = [by_step[step]["loss"] for step in sorted(by_step)[-10:]]
    return {"last_training_loss": round(float(np.mean(last)), 4), "logged_steps": max(by_step)}


def _line(text: str) -> dict[str, Any]:
    """A line of the log; empty where the program was ended in the middle of writing it."""
    try:
        found = json.loads(text)
        return {"step": int(found["step"]), "loss": float(found["loss"])}
    except (ValueError, KeyError, TypeError):
        return {}
