"""Memory and time of a run, before anything starts."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp

from grok.architectures.architecture import Architecture
from grok.architectures.families import architecture_of, open_checkpoint
from grok.architectures.grok1 import Grok1
from grok.config import BUNDLED_MODEL, GROK_1
from grok.dictionaries.kinds.design import Design
from grok.dictionaries.training.devices import check_mesh
from grok.dictionaries.training.settings import Settings
from grok.dictionaries.training.step import SAMPLE
from grok.planning.costs import head_operations, layer_operations, model_bytes
from grok.planning.machine import Rates, unmeasured
from grok.units import duration, size

FLOAT = 4
# The most of two processors, of a clt of 12 layers; it grows with layers, not with their sizes.
COMPILER = 800_000_000
MEASURED_SECONDS = 0.5
GROK_1_NAME = "grok-1"
ONE = (1, 1)
# What makes each part of the memory smaller.
FROM = {
    "parameters": "features or layers",
    "Adam": "features or layers",
    "gradients": "features or layers",
    "features of tokens": "training.batch or features",
    "outputs of a batch": "training.batch or layers",
    "activations to mix": "text.buffer, training.batch or layers",
    "compiler": "layers",
}


def step_operations(design: Design) -> int:
    """Floating-point operations of one token's dense step: five products of blocks.

    What is read gets no gradient, so encoders have two products and decoders three.
    """
    blocks = design.d_model * design.features
    reads = sum(len(group.reads) for group in design.groups)
    writes = sum(len(group.writes) for group in design.groups)
    skip = len(design.targets) * design.d_model**2 if design.skip else 0
    return 2 * (blocks * (2 * reads + 3 * writes) + 2 * skip)


def model_operations(architecture: Architecture, context: int) -> float:
    """Operations of one token's forward pass, in windows of `context` tokens."""
    layers = architecture.config.n_layers * layer_operations(architecture, context)
    return (layers + head_operations(architecture, context)) / context


def memory(design: Design, settings: Settings, mesh: tuple[int, int] = ONE) -> dict[str, int]:
    """Bytes of each thing that a run holds on each device of a (data, model) mesh."""
    data, model = mesh
    batch, d = settings.training.batch // data, design.d_model
    # A step has some five arrays of them; calibration has two, of more tokens.
    tokens = max(5 * batch, 2 * SAMPLE // data)
    features = tokens * len(design.groups) * design.features * FLOAT // model
    written = sum(len(group.writes) for group in design.groups) * batch * d * FLOAT
    parameters = design.n_parameters * FLOAT // model
    return {
        "parameters": parameters,
        "Adam": 2 * parameters,
        "gradients": parameters,
        "features of tokens": features,
        "outputs of a batch": 2 * written,
    }


def host_memory(design: Design, settings: Settings) -> dict[str, int]:
    """Bytes that a run holds in the memory of each process's machine."""
    sites = len(set(design.sources) | set(design.targets))
    tokens = settings.text.buffer * settings.training.batch
    mixed = tokens * sites * design.d_model * FLOAT
    return {"activations to mix": mixed, "compiler": COMPILER}


@dataclass(frozen=True)
class Need:
    """Memory that a run takes somewhere, and what there is.

    Attributes:
        where: in words.
        parts: bytes of each thing.
        room: bytes that are there.
    """

    where: str
    parts: dict[str, int]
    room: int

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def text(self) -> list[str]:
        """A line for each part and one for all; says what does not fit."""
        lines = [f"{self.where}, {size(self.room)} free:"]
        for name, n in self.parts.items():
            alone = "  does not fit, even alone" if n > self.room else ""
            lines.append(f"  {name:20s} {size(n)}{alone}")
        return [*lines, f"  {'in all':20s} {size(self.total)}"]

    def refusal(self) -> str:
        """What to make smaller, the largest part first."""
        largest = max(self.parts, key=lambda name: self.parts[name])
        return (
            f"It does not fit: {size(self.total)} are needed and {size(self.room)} are free "
            f"({self.where.lower()}). The largest part is {largest}, which shrinks with "
            f"{FROM[largest]}."
        )


def needs(design: Design, settings: Settings, mesh: tuple[int, int], rates: Rates) -> list[Need]:
    """Where a run takes memory: the devices', and this machine's; one where they are the same."""
    own, host = memory(design, settings, mesh), host_memory(design, settings)
    n = mesh[0] * mesh[1]
    if rates.on_cpu:
        shared = {name: n * value for name, value in own.items()}
        return [Need("Memory of this machine", shared | host, rates.memory_bytes)]
    each = rates.device_bytes // max(rates.n_devices, 1)
    return [
        Need(f"Each of {n} devices", own, each),
        Need("Memory of this machine", host, rates.memory_bytes),
    ]


def most_features(
    design: Design, settings: Settings, mesh: tuple[int, int], rates: Rates
) -> int | None:
    """Features of a group that would fit; None where other things already do not."""
    unit = max(design.n_experts, 1) * mesh[1]
    found = []
    some = [needs(replace(design, features=n * unit), settings, mesh, rates) for n in (1, 1025)]
    for small, large in zip(*some, strict=True):
        of_one = (large.total - small.total) / 1024
        if small.total > small.room:
            return None
        if of_one:
            found.append(1 + int((small.room - small.total) / of_one))
    return min(found) * unit


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


def planned(model: Path | None) -> Architecture:
    """The architecture that a run is planned for: of a checkpoint, or Grok-1 by its name."""
    if model is not None and str(model) == GROK_1_NAME and not model.exists():
        return Grok1(GROK_1)
    return architecture_of(open_checkpoint(model or BUNDLED_MODEL))


def plan_text(settings: Settings, model: Path | None, mesh: tuple[int, int] = ONE) -> str:
    """A run's memory and time on this machine, in lines; says what does not fit.

    Args:
        settings: of the run.
        model: folder of the checkpoint, of whose weights nothing is read; or "grok-1".
        mesh: (data, model) sizes; devices are thought to be like those here.

    Raises:
        GrokError: no such dictionary for this model, or no such mesh.
    """
    architecture, rates = planned(model), unmeasured()
    design = settings.dictionary.design(architecture.config)
    check_mesh(mesh, design.features, settings.training.batch)
    schedule, weights = settings.training, model_bytes(architecture)
    wanted = needs(design, settings, mesh, rates)
    lines = [
        f"{design.kind} of {len(design.groups)} groups of {design.features:,} features, width "
        f"{design.d_model:,}: {design.n_parameters:,} parameters",
        *(line for need in wanted for line in need.text()),
        f"  {'the model beside it':20s} {size(weights)}",
        *_times(architecture, design, settings, mesh),
    ]
    if weights + sum(need.total for need in wanted) > rates.memory_bytes:
        blocks = -(-schedule.tokens // (settings.text.buffer * schedule.batch))
        lines.append(
            f"Both together are more than is free. Streamed, the model's weights are read at least "
            f"{blocks:,} times, once for each block of {settings.text.buffer} batches."
        )
    refused = [need.refusal() for need in wanted if need.total > need.room]
    if refused:
        most = most_features(design, settings, mesh, rates)
        lines += refused
        lines.append(
            "With one feature it would not fit either."
            if most is None
            else f"With {most:,} features of a group it would fit."
        )
    return "\n".join(lines)


def _times(
    architecture: Architecture, design: Design, settings: Settings, mesh: tuple[int, int]
) -> list[str]:
    """How long steps and activations take at least."""
    schedule, devices = settings.training, mesh[0] * mesh[1]
    rate = product_rate(schedule.batch, design.d_model, design.features)
    # Devices that are parts of one processor share its rate.
    rate *= 1 if jax.default_backend() == "cpu" else devices
    step, forward = step_operations(design), model_operations(architecture, settings.text.context)
    seconds = schedule.tokens * (step + forward) / rate
    return [
        f"{step / 1e6:,.1f} MFLOP a token of dense steps and {forward / 1e6:,.1f} of the model, at "
        f"{rate / 1e9:,.0f} GFLOP/s here:",
        f"  {rate / (step + forward):,.3g} tokens/s at most, {duration(seconds)} at least for "
        f"{schedule.tokens:,} tokens",
    ]
