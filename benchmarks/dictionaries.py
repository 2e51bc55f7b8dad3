"""Training steps of dictionaries: tokens a second, share of this machine's matrix rate, memory.

    python -m benchmarks dictionaries [--small]

Each kind at the bundled model's sizes (width 128, 12 layers), 1,024 and 2,048 features a group, 16
of them active, 2,048 tokens a step, no dead features, on random values. Two steps are timed, after
annealing:

- the dense one, that of accelerators: five products of every block. Its aim is 60 % of the rate of
  a large float32 product, measured in the same run; every other row is a share of that too.
- the one that is taken here. Where `batch_topk` runs on a processor it touches active features
  alone, and does a small part of those products; its share of the rate counts those of the dense
  step, so it may be above 1.

Then what it costs to compute the values of a batch in the bundled model; the memory of a run in a
process of its own over what `--plan` says; and dense steps on meshes of eight devices that share
this machine's cores, over the same on one: what splitting costs where it can win nothing.
`--small` runs the same code at small sizes, which shows that it runs and says nothing about speed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.products import best, float32_rate
from benchmarks.rows import Row, exit_code, table
from grok.errors import GrokError

if TYPE_CHECKING:
    from grok.dictionaries.kinds.design import Design
    from grok.dictionaries.training.losses import Batch
    from grok.dictionaries.training.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
AIM = 1 / 0.6  # of the matrix rate over what a dense step reaches
MOST_MEMORY = 1.0  # of the plan
MOST_ACTIVATIONS = 1.0  # of a step that is taken here
MOST_SPLIT = 1.5  # of one device's time
SITES = {"sae": ("resid_mid",), "crosscoder": ("resid_mid",)}
MESHES = ((1, 8), (2, 4), (8, 1))


@dataclass(frozen=True)
class Setting:
    """Sizes that are measured with; `blocks` batches are computed together for their values."""

    kinds: tuple[str, ...] = ("sae", "transcoder", "clt", "crosscoder", "expert_transcoder")
    features: tuple[int, ...] = (1024, 2048)
    n_layers: int = 12
    d_model: int = 128
    batch: int = 2048
    k: int = 16
    repeats: int = 3
    blocks: int = 16
    matrix: int = 2048


SMALL = Setting(("sae", "clt", "expert_transcoder"), (64,), 2, 16, 64, 4, 1, 2, 64)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns 1 when a limit is broken."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks dictionaries", description=__doc__)
    parser.add_argument("--small", action="store_true", help="runs the code, measures nothing")
    parser.add_argument("--worker", choices=list(WORKERS), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    setting = SMALL if args.small else Setting()
    if args.worker:
        print(json.dumps(WORKERS[args.worker](setting)))
        return 0
    rate = float32_rate(setting.matrix)
    rows = [Row("float32 matrix product", rate / 1e9, "GFLOP/s")]
    times: dict[tuple[str, int], float] = {}
    for features in setting.features:
        for kind in setting.kinds:
            own, times[kind, features] = steps(setting, kind, features, rate)
            rows += own
    rows += activations(setting, times)
    rows += [Row(**row) for name in WORKERS for row in of_worker(name, args.small)]
    print(table(rows))
    return exit_code(rows)


def run_of(setting: Setting, kind: str, features: int) -> tuple[Design, Settings]:
    """A dictionary over all layers and the settings of a run that is past its annealing."""
    from grok.dictionaries.kinds.design import Design
    from grok.dictionaries.training.settings import settings_of

    reads = SITES.get(kind, ("router.input",))
    writes = SITES.get(kind, ("moe.normed",))
    layers = tuple(range(setting.n_layers))
    experts = 8 if kind == "expert_transcoder" else 0
    design = Design(kind, layers, reads, writes, features, setting.d_model, n_experts=experts)
    settings = settings_of(
        {
            "dictionary": {"kind": kind, "reads": reads, "writes": writes, "features": features},
            "activation": {"k": setting.k, "pooled": kind == "clt", "gate_by_norm": kind == "clt"},
            "text": {"buffer": setting.blocks},
            "training": {"tokens": 2**30, "batch": setting.batch, "anneal": 0.0,
                         "k_start": float(setting.k), "dead_window": 2**30},
        }
    )  # fmt: skip
    return design, settings


def random_batch(design: Design, tokens: int) -> Batch:
    """Values of all sites, and two experts of each token."""
    from grok.dictionaries.training.losses import Batch

    rng = np.random.default_rng(0)
    shape = (len(design.sources), tokens, design.d_model)
    x = rng.standard_normal(shape, np.float32)
    y = x if design.sources == design.targets else rng.standard_normal(shape, np.float32)
    chosen = rng.integers(0, 8, (*shape[:2], 2), np.int32) if design.n_experts else None
    return Batch(x, y, chosen)  # type: ignore[arg-type]


def begun_run(
    design: Design, settings: Settings, mesh: Any, tokens: int = 0
) -> tuple[Batch, Any, Any]:
    """A batch, and the constants and the state of a run before its first step.

    Args:
        design: of the dictionary.
        settings: of the run.
        mesh: of devices, or None.
        tokens: of the sample that biases start from; those of a batch where 0.
    """
    from grok.dictionaries.kinds.normalising import measured
    from grok.dictionaries.training.devices import on_devices
    from grok.dictionaries.training.step import begun_on
    from grok.dictionaries.training.update import constants_of

    batch = random_batch(design, settings.training.batch)
    units = [measured(np.asarray(values), "centred") for values in batch[:2]]
    constants = on_devices(constants_of(units[0], units[1]), mesh)
    some = random_batch(design, tokens) if tokens else batch
    sample = on_devices(some, mesh, split=False)
    return batch, constants, begun_on(mesh, design, settings, constants, sample)


def timed(
    make: Callable[..., Any], design: Design, settings: Settings, repeats: int, mesh: Any = None
) -> float:
    """Seconds of the fastest of some steps, after one that compiles."""
    import jax

    from grok.dictionaries.training.devices import on_devices

    batch, constants, state = begun_run(design, settings, mesh)
    held = [state]
    step = make(design, settings, mesh) if mesh is not None else make(design, settings)

    def once() -> None:
        state, parts = step(held.pop(), on_devices(batch, mesh), constants)
        held.append(jax.block_until_ready(state))
        jax.block_until_ready(parts)

    return best(once, repeats)


def steps(setting: Setting, kind: str, features: int, rate: float) -> tuple[list[Row], float]:
    """The rows of one dictionary, and seconds of the step that is taken here."""
    from grok.dictionaries.training.plan import step_operations
    from grok.dictionaries.training.step import make_dense_step, make_step

    design, settings = run_of(setting, kind, features)
    operations = step_operations(design) * setting.batch
    dense = timed(make_dense_step, design, settings, setting.repeats)
    taken = timed(make_step, design, settings, setting.repeats)
    name = f"{kind}, {features:,}"
    limit = operations / rate
    return [
        Row(
            f"{name}: the matrix rate over a dense step's",
            dense / limit,
            "",
            aim=AIM,
            digits=2,
            note=f"{limit / dense:.0%} of it; {setting.batch / dense:,.0f} tokens/s",
        ),
        Row(
            f"{name}: the step that is taken here",
            taken / dense,
            "of the dense one",
            limit=1.0,
            digits=2,
            note=f"{limit / taken:.0%} of the rate as if dense; "
            f"{setting.batch / taken:,.0f} tokens/s",
        ),
    ], taken


def activations(setting: Setting, times: dict[tuple[str, int], float]) -> list[Row]:
    """Seconds of a batch's values in the bundled model, over those of the steps taken here."""
    from grok.dictionaries.kinds.design import Design
    from grok.dictionaries.training.source import Computed, Source
    from grok.dictionaries.training.windows import Order, cut
    from grok.runner.loading import load

    model = load(dtype="float32", mesh=(1, 1))
    tokens = setting.blocks * setting.batch
    ids = np.random.default_rng(0).integers(3, model.config.vocab_size, 2 * tokens)
    windows = cut({"random": ids}, min(128, setting.batch))
    rows = []
    for kind in setting.kinds:
        reads, writes = SITES.get(kind, ("router.input",)), SITES.get(kind, ("moe.normed",))
        experts = model.config.n_experts if kind == "expert_transcoder" else 0
        layers, d = tuple(range(model.config.n_layers)), model.config.d_model
        design = Design(kind, layers, reads, writes, 64, d, n_experts=experts)
        order = Order(windows.lengths, 0, tokens, 0)
        source = Source(design, Computed(model, windows), order, setting.batch)
        blocks = iter(range(10**6))
        seconds = best(lambda s=source, b=blocks: s.block(next(b)), 1)  # type: ignore[misc]
        each = seconds / setting.blocks
        for features in setting.features:
            rows.append(
                Row(
                    f"{kind}, {features:,}: values of a batch over its step",
                    each / times[kind, features],
                    "",
                    aim=MOST_ACTIVATIONS,
                    digits=2,
                    note=f"{setting.batch / each:,.0f} tokens/s of the model alone",
                )
            )
    return rows


def peak_bytes() -> int:
    """The most memory that this process has had; not its parent's, as `resource` may say."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def memory(setting: Setting, dense: bool = False) -> list[dict[str, Any]]:
    """What a run of the largest kind adds to the memory of a process, over the plan."""
    import jax

    from grok.dictionaries.training import plan
    from grok.dictionaries.training.step import SAMPLE, calibrated, make_dense_step, make_step

    kind, features = ("clt", setting.features[0])
    design, settings = run_of(setting, kind, features)
    jax.block_until_ready(jax.jit(lambda x: x @ x)(np.ones((8, 8), np.float32)))
    before = peak_bytes()
    kept = random_batch(design, setting.blocks * setting.batch)
    batch, constants, state = begun_run(design, settings, None, min(SAMPLE, len(kept.x[0])))
    step = (make_dense_step if dense else make_step)(design, settings)
    for _ in range(2):
        state, _ = jax.block_until_ready(step(state, batch, constants))
    sample = jax.tree.map(lambda values: values[:, :SAMPLE], kept)
    calibrated(design, settings, state.params, constants, sample)
    added = peak_bytes() - before
    parts = plan.memory(design, settings) | plan.host_memory(design, settings)
    assert sum(one.nbytes for one in kept[:2]) == parts["activations to mix"]
    kind_of_step = "dense step" if dense else "step that is taken here"
    return [
        {
            "name": f"{kind}, {features:,}: memory of a run with the {kind_of_step}",
            "value": added / sum(parts.values()),
            "unit": "of the plan",
            "limit": MOST_MEMORY if setting is not SMALL else None,
            "digits": 2,
            "note": f"{added / 1e6:,.0f} MB",
        }
    ]


def meshes(setting: Setting) -> list[dict[str, Any]]:
    """Dense steps on meshes of eight devices over that on one, all on the same cores."""
    from grok.dictionaries.training.devices import open_mesh
    from grok.dictionaries.training.step import make_dense_step

    features, rows = setting.features[0], []
    design, settings = run_of(setting, "transcoder", features)
    one = timed(make_dense_step, design, settings, setting.repeats)
    for shape in MESHES:
        mesh = open_mesh(shape, features, setting.batch)
        seconds = timed(make_dense_step, design, settings, setting.repeats, mesh)
        rows.append(
            {
                "name": f"transcoder, {features:,}: a dense step on "
                f"{shape[0]} x {shape[1]} devices",
                "value": seconds / one,
                "unit": "of that on one",
                "aim": MOST_SPLIT,
                "digits": 2,
                "note": f"{setting.batch / seconds:,.0f} tokens/s",
            }
        )
    return rows


def of_worker(name: str, small: bool) -> list[dict[str, Any]]:
    """Rows of a process of its own, with eight devices for meshes."""
    environment = dict(os.environ)
    if name == "meshes":
        flags = environment.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8".strip()
        environment["JAX_PLATFORMS"] = "cpu"
    command = [sys.executable, "-m", "benchmarks.dictionaries", "--worker", name]
    command += ["--small"] if small else []
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise GrokError(done.stderr.strip().splitlines()[-1] if done.stderr else "no output")
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


WORKERS: dict[str, Callable[[Setting], list[dict[str, Any]]]] = {
    "memory": memory,
    "memory-dense": partial(memory, dense=True),
    "meshes": meshes,
}


if __name__ == "__main__":
    sys.exit(main())
