"""A full-size Grok-1 layer on a GPU: time, bytes, operations, and how near the limits they come.

    python -m benchmarks gpu [--small] [--folder DIR] [--layers N]

On a machine without a GPU it says so and ends. `--small` runs the same code at small widths on
whatever device there is, a CPU too: that shows that it runs and says nothing about speed.

One layer with random int8 weights: a prefill of 512 tokens, and the decoding of 1, 2, 4 and 8
sequences. Each is timed in several ways to compute its experts: as the model does by default, with
the scale after the product (`benchmarks.gpu.moe_scaled`), in blocks of up to 256 rows or 128, and
all experts for every slot, as the official code does. The limit is the larger of bytes over memory
bandwidth and operations over the rate of a bfloat16 product, all measured in the same run.
Several calls follow one another before the clock is stopped, as layers do in a pass.

Then as many layers as the device holds, resident; and a few layers read from files through the
device, against the same layers resident.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks.fullsize.checkpoint import make_checkpoint
from benchmarks.gpu.layer import (
    CONTEXT,
    DTYPE,
    FULL,
    SMALL,
    Ceilings,
    Running,
    Shape,
    ceilings,
    cost,
    every_slot,
    median_seconds,
    random_layer,
)
from benchmarks.gpu.moe_scaled import run_scaled
from grok.architectures.architecture import Dispatch
from grok.architectures.grok1 import Grok1
from grok.architectures.moe import run_selected
from grok.config import GrokConfig
from grok.engine.interfaces import Part
from grok.errors import CheckpointError, DeviceError
from grok.streaming.device_layers import DeviceLayers, fit, has_pinned, layer_bytes

AIM = 0.5  # of the binding limit
WAYS: dict[str, Dispatch] = {
    "chosen (default)": run_selected,
    "chosen, scaled after": run_scaled,
    "same, blocks of 128": partial(run_scaled, most_rows=128),
    "every slot": every_slot,
}


@dataclass(frozen=True)
class Setting:
    """What is measured with.

    Attributes:
            config: of the layer.
            prefill: tokens of the long call.
            decode: sequences of the short ones.
            chain: calls between two looks at the clock.
            repeats: of them.
            copied: bytes of the arrays that bandwidth is measured with.
            width: of the matrices that the product is measured with.
            n_layers: streamed.
        aimed: whether speeds are held against the aim.
    """

    config: GrokConfig
    prefill: int
    decode: tuple[int, ...]
    chain: int
    repeats: int
    copied: int
    width: int
    n_layers: int
    aimed: bool = True


AT_SIZE = Setting(FULL, CONTEXT, (1, 2, 4, 8), 8, 10, 2**32, 8192, 3)
IN_SMALL = Setting(SMALL, 32, (1, 2), 2, 2, 2**22, 128, 3, aimed=False)


# --- one layer ------------------------------------------------------------------


@dataclass(frozen=True)
class Timed:
    """One call of a layer in one way. apart: from the default's output, relative to its size."""

    shape: Shape
    way: str
    seconds: float
    bytes: float
    operations: float
    least: float
    binds: str
    apart: float

    @property
    def share(self) -> float:
        """Of the binding limit, 1 at it."""
        return self.least / self.seconds


def one_layer(setting: Setting, mesh: Mesh, limits: Ceilings) -> list[Timed]:
    """All shapes in all ways, one layer of random weights."""
    params = random_layer(setting.config, device=mesh.devices.item())
    shapes = [Shape(1, setting.prefill, setting.prefill)]
    shapes += [Shape(n, 1, setting.prefill) for n in setting.decode]
    found = []
    for shape in shapes:
        running = Running(setting.config, mesh, shape)
        outputs: dict[str, np.ndarray] = {}
        for way, dispatch in WAYS.items():
            h, choice = running.once(params, dispatch)
            outputs[way] = np.asarray(h - running.h, np.float32)
            own = outputs["chosen (default)"]
            apart = float(np.linalg.norm(outputs[way] - own) / np.linalg.norm(own))
            needed = cost(setting.config, shape, np.asarray(choice.experts))
            least, binds = limits.seconds(needed)
            seconds = chained(running, [params] * setting.chain, dispatch, setting.repeats)
            found.append(
                Timed(shape, way, seconds, needed.bytes, needed.operations, least, binds, apart)
            )
    return found


def chained(running: Running, layers: Sequence[Any], dispatch: Dispatch, repeats: int) -> float:
    """Seconds a layer of a pass over these."""

    def all_layers() -> jax.Array:
        h = running.h
        for params in layers:
            h, _ = running.once(params, dispatch, h)
        return h

    return median_seconds(all_layers, repeats) / len(layers)


def layer_table(rows: Sequence[Timed]) -> str:
    """Figures of one layer."""
    lines = [
        f"{'rows':<16}{'experts':<22}{'ms':>9}{'GB':>8}{'GFLOP':>10}{'GB/s':>9}{'TFLOP/s':>9}"
        f"{'limit ms':>10}{'binds':>12}{'of limit':>10}{'apart':>9}"
    ]
    for row in rows:
        lines.append(
            f"{row.shape.name:<16}{row.way:<22}{1e3 * row.seconds:>9.3f}{row.bytes / 1e9:>8.3f}"
            f"{row.operations / 1e9:>10.2f}{row.bytes / row.seconds / 1e9:>9.1f}"
            f"{row.operations / row.seconds / 1e12:>9.2f}{1e3 * row.least:>10.3f}{row.binds:>12}"
            f"{row.share:>10.1%}{row.apart:>9.1e}"
        )
    return "\n".join(lines)


def ratios(rows: Sequence[Timed]) -> str:
    """How many times longer all experts for every slot take."""
    lines = []
    for shape in dict.fromkeys(row.shape for row in rows):
        by_way = {row.way: row.seconds for row in rows if row.shape == shape}
        every = by_way["every slot"]
        parts = [f"{every / by_way[way]:.1f} x {way}" for way in WAYS if way != "every slot"]
        lines.append(f"{shape.name}: every slot takes {', '.join(parts)}")
    return "\n".join(lines)


def aims(rows: Sequence[Timed]) -> str:
    """Whether the better of the ways that compute the chosen experts reaches the aim."""
    lines = []
    for shape in dict.fromkeys(row.shape for row in rows):
        best = max(
            (row for row in rows if row.shape == shape and row.way != "every slot"),
            key=lambda row: row.share,
        )
        held = "held" if best.share >= AIM else "NOT HELD"
        lines.append(
            f"{shape.name}: {best.share:.0%} of the {best.binds} limit ({best.way}), "
            f"aim {AIM:.0%}: {held}"
        )
    return "\n".join(lines)


# --- many layers ----------------------------------------------------------------


def resident_layers(setting: Setting, mesh: Mesh, n_layers: int) -> list[tuple[Shape, float]]:
    """Seconds a layer of passes over so many layers that all stay on the device."""
    first = random_layer(setting.config, device=mesh.devices.item())
    layers = [first, *(jax.tree.map(jnp.copy, first) for _ in range(n_layers - 1))]
    found = []
    for shape in (Shape(1, setting.prefill, setting.prefill), Shape(1, 1, setting.prefill)):
        running = Running(setting.config, mesh, shape)
        found.append((shape, chained(running, layers, run_selected, setting.repeats)))
    return found


def holds(setting: Setting, device: Any) -> int:
    """Layers that the device holds beside what a pass needs; as many as asked for on a CPU."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if not stats or "bytes_limit" not in stats:
        return setting.n_layers
    free = int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    return max(1, fit(Grok1(replace(setting.config, n_layers=64)), free, setting.prefill))


@dataclass(frozen=True)
class Passed:
    """A pass over layers from files. waited: for layers to arrive; same: bits of the streamed
    and of the resident stream agree."""

    name: str
    seconds: float
    waited: float
    bytes: int
    same: bool


def streamed_layers(setting: Setting, mesh: Mesh, folder: Path) -> list[Passed]:
    """Passes over layers in files: streamed with and without pinned memory, and resident.

    Raises:
        CheckpointError: there is no room for the files.
    """
    config = replace(setting.config, n_layers=setting.n_layers)
    checkpoint, _ = make_checkpoint(folder, config)
    shape = Shape(1, setting.prefill, setting.prefill)
    ways: list[tuple[str, int, bool]] = [("resident", config.n_layers, False)]
    ways += [("streamed", 0, False)] + [("streamed, pinned", 0, True)] * has_pinned(mesh)
    found: list[Passed] = []
    want: np.ndarray | None = None
    for name, stay, pinned in ways:
        layers = DeviceLayers(checkpoint, Grok1(config), DTYPE, mesh, stay, pinned=pinned)
        running = Running(config, mesh, shape)
        seen: list[tuple[float, int]] = []
        outputs: list[np.ndarray] = []

        def one(
            layers: DeviceLayers = layers,
            running: Running = running,
            seen: list[tuple[float, int]] = seen,
            outputs: list[np.ndarray] = outputs,
        ) -> jax.Array:
            h = running.h
            with layers.walk(shape.rows) as walk:
                for layer in range(config.n_layers):
                    part = Part(h, running.start, running.keys, running.cache)
                    for done in walk.layer(layer, [part]):
                        h, running.cache = done.h, done.cache
                seen.append((walk.waited, walk.bytes_read))
            outputs.append(np.asarray(h))
            return h

        seconds = median_seconds(one, 3)
        want = outputs[0] if want is None else want
        same = all(np.array_equal(want, output) for output in outputs)
        found.append(Passed(name, seconds, seen[-1][0], seen[-1][1], same))
        del layers
    return found


def passes_table(found: Sequence[Passed], n_layers: int) -> str:
    """Figures of passes over layers from files."""
    base = found[0].seconds
    lines = [f"{'layers':<20}{'s a layer':>11}{'GB/s':>8}{'waited':>9}{'x resident':>12}  numbers"]
    for row in found:
        lines.append(
            f"{row.name:<20}{row.seconds / n_layers:>11.4f}{row.bytes / row.seconds / 1e9:>8.2f}"
            f"{row.waited / row.seconds:>9.0%}{row.seconds / base:>12.1f}"
            f"  {'the same bits' if row.same else 'NOT THE SAME'}"
        )
    return "\n".join(lines)


# --- the command ----------------------------------------------------------------


def report(
    setting: Setting, device: Any, folder: Path, say: Callable[[str], object] = print
) -> int:
    """Measures and says everything; returns 1 when streamed numbers differ from resident ones."""
    mesh = Mesh(np.array([device]).reshape(1, 1), ("data", "model"))
    c = setting.config
    say(
        f"{device.device_kind}; one layer of d_model {c.d_model}, d_ff {c.d_ff}, {c.n_experts} "
        f"experts, top {c.top_k}: {layer_bytes(Grok1(c)) / 1e9:.3f} GB; activations {DTYPE}"
    )
    try:
        n_layers = holds(setting, device)
    except DeviceError as error:
        say(f"not measured: {error}")
        return 0
    limits = ceilings(
        device, setting.copied, setting.width, setting.repeats, pinned=has_pinned(mesh)
    )
    pinned = "" if limits.put_pinned is None else f", pinned {limits.put_pinned / 1e9:.1f}"
    say(
        f"memory read {limits.read / 1e9:.0f} GB/s, copied {limits.copy / 1e9:.0f} GB/s (read and "
        f"written); {DTYPE} product [{setting.width}]^2 {limits.matrix / 1e12:.2f} TFLOP/s; from "
        f"the host {limits.put / 1e9:.1f}{pinned} GB/s"
    )
    rows = one_layer(setting, mesh, limits)
    for part in (layer_table(rows), ratios(rows)):
        say("\n" + part)
    if setting.aimed:
        say("\n" + aims(rows))
    say(f"\n{n_layers} layers resident, {n_layers * layer_bytes(Grok1(c)) / 1e9:.1f} GB")
    for shape, seconds in resident_layers(setting, mesh, n_layers):
        say(f"{shape.name}: {1e3 * seconds:.3f} ms a layer, {seconds * n_layers:.3f} s in all")
    say(f"\n{setting.n_layers} layers in files, prefill of {setting.prefill}")
    try:
        found = streamed_layers(setting, mesh, folder)
    except CheckpointError as error:
        say(f"not measured: {error}")
        return 0
    say(passes_table(found, setting.n_layers))
    return int(not all(row.same for row in found))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns 1 when streamed numbers differ from resident ones."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--small", action="store_true", help="small widths, on any device")
    parser.add_argument("--folder", type=Path, help="for the layers in files (default: temporary)")
    parser.add_argument("--layers", type=int, help="how many of them (default: 3)")
    args = parser.parse_args(argv)
    gpus = [device for device in jax.local_devices() if device.platform in ("gpu", "cuda", "rocm")]
    if not gpus and not args.small:
        print("no GPU here")
        return 0
    setting = IN_SMALL if args.small else AT_SIZE
    if args.layers is not None:
        if args.layers < 1:
            print(f"--layers is {args.layers}; expected at least 1.", file=sys.stderr)
            return 2
        setting = replace(setting, n_layers=args.layers)
    device = (gpus or jax.local_devices())[0]
    with tempfile.TemporaryDirectory(prefix="gpu-layers-") as temporary:
        return report(setting, device, args.folder or Path(temporary) / "layers")


if __name__ == "__main__":
    sys.exit(main())
