"""Memory and time of a run, before anything starts."""

from __future__ import annotations

import time
from pathlib import Path

import jax
import jax.numpy as jnp

from grok.architectures.families import architecture_of, open_checkpoint
from grok.config import BUNDLED_MODEL
from grok.dictionaries.kinds.design import Design
from grok.dictionaries.training.settings import Settings
from grok.planning.costs import model_bytes
from grok.planning.machine import unmeasured
from grok.units import duration, size

FLOAT = 4
MEASURED_SECONDS = 0.5


def step_operations(design: Design) -> int:
    """Floating-point operations of one token's step: five products of each decoder and encoder.

    What is read gets no gradient, so encoders have two products and decoders three.
    """
    blocks = design.d_model * design.features
    reads = sum(len(group.reads) for group in design.groups)
    writes = sum(len(group.writes) for group in design.groups)
    skip = len(design.targets) * design.d_model**2 if design.skip else 0
    return 2 * (blocks * (2 * reads + 3 * writes) + 2 * skip)


def memory(design: Design, settings: Settings) -> dict[str, int]:
    """Bytes of each thing that a run holds on its device."""
    batch, d = settings.training.batch, design.d_model
    sites = len(set(design.sources) | set(design.targets))
    features = batch * len(design.groups) * design.features * FLOAT
    written = sum(len(group.writes) for group in design.groups) * batch * d * FLOAT
    return {
        "parameters": design.n_parameters * FLOAT,
        "Adam": 2 * design.n_parameters * FLOAT,
        "gradients": design.n_parameters * FLOAT,
        "features of a batch": 4 * features,
        "outputs of a batch": 2 * written,
        "activations to mix": settings.text.buffer * batch * sites * d * FLOAT,
    }


def product_rate(batch: int, d: int, features: int) -> float:
    """Floating-point operations a second of float32 products of these sizes, measured here."""
    n, m = min(batch, 2048), min(features, 4096)
    a, b = jnp.ones((n, min(d, 4096))), jnp.ones((min(d, 4096), m))
    product = jax.jit(jnp.dot)
    product(a, b).block_until_ready()
    began, times = time.perf_counter(), 0
    while time.perf_counter() - began < MEASURED_SECONDS:
        product(a, b).block_until_ready()
        times += 1
    return 2 * a.size * m * times / (time.perf_counter() - began)


def plan_text(settings: Settings, model: Path | None) -> str:
    """A run's memory and time on this machine, in lines; says what does not fit.

    Args:
        settings: of the run.
        model: folder of the checkpoint; of its weights nothing is read.
    """
    architecture = architecture_of(open_checkpoint(model or BUNDLED_MODEL))
    design = settings.dictionary.design(architecture.config)
    schedule = settings.training
    parts = memory(design, settings)
    needed, room = sum(parts.values()), unmeasured().memory_bytes
    rate = product_rate(schedule.batch, design.d_model, design.features)
    operations = step_operations(design)
    lines = [
        f"{design.kind} of {len(design.groups)} groups of {design.features:,} features, width "
        f"{design.d_model:,}: {design.n_parameters:,} parameters",
        *(f"  {name:20s} {size(n)}" for name, n in parts.items()),
        f"  {'in all':20s} {size(needed)}, beside the model's {size(model_bytes(architecture))}",
        f"{operations / 1e6:,.1f} MFLOP a token at {rate / 1e9:,.0f} GFLOP/s here: "
        f"{rate / operations:,.0f} tokens/s at most, "
        f"{duration(schedule.tokens * operations / rate)} at least for {schedule.tokens:,} tokens",
    ]
    if needed > room:
        lines.append(
            f"It does not fit: {size(needed)} are needed and {size(room)} are free. Take fewer "
            "layers or features, a smaller batch or a smaller buffer."
        )
    return "\n".join(lines)
