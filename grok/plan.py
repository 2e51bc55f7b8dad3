"""`python -m grok.plan`: memory and time of each way to run a checkpoint on this machine.

Measures the disk, the processor and the memory for a second or two, then prints
what each mode would take, what limits it, and which one is chosen. Of the
checkpoint only what the disk's measurement reads is read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grok.architectures.architecture import Architecture
from grok.checkpoints.tensor_spec import Checkpoint
from grok.errors import DeviceError, GrokError
from grok.planning.machine import Rates
from grok.planning.modes import DEFAULT_BUDGET, UNKNOWN, Decision, ModePlan
from grok.units import budget_bytes, duration, size

if TYPE_CHECKING:
    from grok.planning.mesh import MeshPlan

DEVICES, MESH_TOKENS = 8, 2048


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, 2 for input that it cannot use."""
    args = _parser().parse_args(argv)
    try:
        _run(args)
    except GrokError as error:
        print(f"grok.plan: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m grok.plan", description="Memory and time of each mode on this machine."
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="folder that holds ckpt-0, or ckpt-0 itself (default: the bundled model)",
    )
    parser.add_argument(
        "--memory-budget",
        type=float,
        metavar="GB",
        help="of the streamed mode (default: 8)",
    )
    parser.add_argument(
        "--tokens", type=int, default=64, metavar="N", help="of the prompt (default: 64)"
    )
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    return parser


def _run(args: argparse.Namespace) -> None:
    from grok.architectures.families import architecture_of, open_checkpoint
    from grok.config import BUNDLED_MODEL
    from grok.planning.machine import rates, unmeasured
    from grok.planning.modes import choose, plan

    budget = budget_bytes(args.memory_budget) or DEFAULT_BUDGET
    checkpoint = open_checkpoint(args.checkpoint or BUNDLED_MODEL)
    architecture = architecture_of(checkpoint)
    wanted: dict[str, Any] = {"n_tokens": args.tokens, "memory_budget": budget}
    plan(architecture, unmeasured(), **wanted)  # refuses bad numbers before measuring
    measured = rates(checkpoint, architecture, resident=True)
    plans = plan(architecture, measured, **wanted)
    report = Report(checkpoint, architecture, args.tokens, measured, plans)
    try:
        report.decision = choose(architecture, measured, **wanted)
    except DeviceError as error:
        report.refusal = error
    print(report.json() if args.json else report.text())
    if report.refusal is not None:
        raise report.refusal


@dataclass
class Report:
    """The text that the command prints."""

    checkpoint: Checkpoint
    architecture: Architecture
    n_tokens: int
    rates: Rates
    plans: list[ModePlan]
    decision: Decision | None = None
    refusal: DeviceError | None = None

    @cached_property
    def name(self) -> str:
        return self.checkpoint.folder.resolve().name

    @cached_property
    def meshes(self) -> list[MeshPlan]:
        """Plans for eight devices; none where the model does not split."""
        from grok.planning.mesh import mesh_plans

        n_tokens = min(MESH_TOKENS, self.architecture.config.context_length)
        return mesh_plans(self.architecture, DEVICES, n_tokens)

    def json(self) -> str:
        """All of it, sizes in bytes, times in seconds, null where not measured."""
        missing = len(self.checkpoint.missing())
        values = {
            "checkpoint": self.name,
            "n_tokens": self.n_tokens,
            "missing_files": missing,
            "rates": asdict(self.rates),
            "modes": [asdict(plan) for plan in self.plans],
            "chosen": None if self.decision is None else self.decision.mode,
            "why": str(self.refusal) if self.decision is None else self.decision.why,
            "eight_devices": [
                asdict(plan) | {"total_bytes": plan.total_bytes, "fits": plan.fits()}
                for plan in self.meshes
            ],
        }
        return json.dumps(values, indent=1)

    def text(self) -> str:
        """Rates, a table of the modes, one of meshes where memory is short, and the choice."""
        parts = [self._heading(), self._rates(), self._modes()]
        if not self.plans[0].fits:
            parts.append(self._meshes())
        if self.decision is not None:
            parts.append(f"Chosen: {self.decision.mode}. {self.decision.why}{self._faster()}")
        return "\n\n".join(parts)

    def _faster(self) -> str:
        """A sentence where the other mode is estimated to be much faster; else ""."""
        assert self.decision is not None
        chosen = self.decision.chosen.seconds_per_pass
        for other in self.plans:
            seconds = other.seconds_per_pass
            if chosen is None or seconds is None or not other.fits:
                continue
            if max(1.0, 1.5 * seconds) < chosen:
                return (
                    f'\nBy these rates mode="{other.mode}" would be faster: {duration(seconds)} '
                    f"for a pass in place of {duration(chosen)}."
                )
        return ""

    def _heading(self) -> str:
        config, missing = self.checkpoint.config, self.checkpoint.missing()
        text = (
            f"{self.name}: {config.n_layers} layers, {config.n_experts} experts, "
            f"top {config.top_k}, weights {size(self.plans[0].memory_bytes)}"
        )
        if missing:
            n_files = len(self.checkpoint.paths)
            text += f"\n{len(missing)} of {n_files} files are missing, so it cannot run."
        return text

    def _rates(self) -> str:
        rates = self.rates
        rows = [
            ["disk", _rate(rates.read_bytes_per_s, 1e9, "GB/s"), rates.read_from],
            [
                "int8 products, 1 row",
                _rate(rates.products_bytes_per_s, 1e9, "GB/s"),
                "Bytes of weights; activations bfloat16.",
            ],
            [
                "int8 products, many rows",
                _rate(rates.flops, 1e9, "GFLOP/s"),
                "",
            ],
        ]
        if rates.resident_bytes_per_s is not None:
            rows += [
                [
                    "resident experts, 1 row",
                    _rate(rates.resident_bytes_per_s, 1e9, "GB/s"),
                    "As the compiled model computes them, on one device.",
                ],
                [
                    "resident experts, many rows",
                    _rate(rates.resident_flops, 1e9, "GFLOP/s"),
                    "",
                ],
            ]
        rows += [
            ["free memory", size(rates.memory_bytes), ""],
            ["devices", rates.devices, ""],
        ]
        return "Measured here:\n" + aligned(rows, "  ")

    def _modes(self) -> str:
        tokens = f"{self.n_tokens:,} token{'s' if self.n_tokens > 1 else ''}"
        rows = [
            ["", *(plan.mode for plan in self.plans)],
            ["fits here", *("yes" if plan.fits else "no" for plan in self.plans)],
            ["memory", *(size(plan.memory_bytes) for plan in self.plans)],
            ["least memory that works", *(size(plan.smallest_bytes) for plan in self.plans)],
            ["read from disk: a pass", *(_read(plan.read_bytes_per_pass) for plan in self.plans)],
            ["  a generated token", *(_read(plan.read_bytes_per_token) for plan in self.plans)],
            ["weights that a token uses", *(size(p.weight_bytes_per_token) for p in self.plans)],
            [f"time: a pass of {tokens}", *(_time(p, p.seconds_per_pass) for p in self.plans)],
            ["  a generated token", *(_time(p, p.seconds_per_token) for p in self.plans)],
            ["limit: a pass", *(_limit(plan, plan.binds) for plan in self.plans)],
            ["  a generated token", *(_limit(plan, plan.token_binds) for plan in self.plans)],
        ]
        return aligned(rows) + (
            "\nTimes are estimates from these rates: of reading and computing, which overlap, the "
            "longer counts;\nwhat calls cost besides is not counted, which in small models is most."
        )

    def _meshes(self) -> str:
        from grok.planning.mesh import GPU_BYTES

        rows = [["(data, model)", "weights", "keys, values", "a pass", "in all", "fits"]]
        for plan in self.meshes:
            parts = (plan.weights_bytes, plan.cache_bytes, plan.working_bytes, plan.total_bytes)
            verdict = "yes" if plan.fits() else "no"
            rows.append([str(plan.mesh), *(size(part) for part in parts), verdict])
        return (
            f"Resident on {DEVICES} devices of {size(GPU_BYTES)}: what each holds with "
            f"{self.meshes[0].n_tokens:,} tokens, from the program's shapes:\n"
        ) + aligned(rows, "  ")


def aligned(rows: Sequence[Sequence[str]], margin: str = "") -> str:
    """Rows of text in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(margin + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _rate(value: float | None, unit: float, name: str) -> str:
    if value is None:
        return UNKNOWN
    return f"{value / unit:,.{0 if value / unit >= 100 else 1}f} {name}"


def _read(n_bytes: int) -> str:
    return size(n_bytes) if n_bytes else "nothing"


def _time(plan: ModePlan, seconds: float | None) -> str:
    if not plan.fits:
        return "-"
    return UNKNOWN if seconds is None else duration(seconds)


def _limit(plan: ModePlan, binds: str) -> str:
    return binds if plan.fits else "-"


if __name__ == "__main__":
    sys.exit(main())
