"""Which layers and experts differ between two router sets.

    python -m lens.compare A.npz B.npz [--output-dir DIR]

Prints what was found, each statement beside its null. With an output folder it also
writes tables (CSV) and figures (PNG, SVG), whole or not at all.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lens import figures
from lens.caveats import caveats
from lens.comparison import (
    LEVEL,
    Comparison,
    Structure,
    compare_routers,
    compare_structure,
    why_not_directions,
)
from lens.errors import LensError
from lens.layer_null import DRAWS
from lens.routers import VIEWS, RouterSet, load_routers
from lens.tables import table_csv

NAMED = 8  # layers or experts that a line names


def labels_of(routers: RouterSet) -> list[str]:
    return [routers.label(layer) for layer in range(routers.n_layers)]


def summary(a: RouterSet, b: RouterSet, found: Comparison | None, alike: Structure) -> list[str]:
    """What the comparison says, a sentence or two a line."""
    lines = []
    if found is None:
        lines.append(
            f"Directions cannot be compared: {why_not_directions(a, b)}. What follows compares how "
            "the layers of each set relate to each other."
        )
    else:
        lines += _directions(a, b, found)
    (one, columns), (other, columns_b) = alike.dimensions
    lines.append(
        f"Effective dimension: A {one:,.1f} of {columns:,}, B {other:,.1f} of {columns_b:,}."
    )
    if np.isnan(alike.correlation):
        lines.append(
            f"Structure over depth: needs 4 layers in both sets; the smaller has {alike.n_layers}."
        )
    else:
        verdict = "alike" if alike.p <= LEVEL else "not distinguishable from chance"
        lines.append(
            f"Structure over depth: {verdict}; the CKA matrices of {alike.n_layers} layers, paired "
            f"by relative depth, correlate by {alike.correlation:.3f}; random pairings do so with "
            f"p {_p(alike.p, alike.draws)} ({alike.draws:,} draws, seed {alike.seed})."
        )
    return lines


def _directions(a: RouterSet, b: RouterSet, found: Comparison) -> list[str]:
    labels = labels_of(a)
    verdicts = [found.verdict(pair) for pair in range(len(found.pairs))]
    counted = Counter(verdicts)
    lines = [
        f"{len(found.pairs)} layers have the same number in both: "
        + ", ".join(f"{count} {verdict}" for verdict, count in counted.most_common())
        + f" (null: both layers turned at random, {found.draws:,} draws, seed {found.seed})."
    ]
    left_out = a.n_layers - len(found.pairs), b.n_layers - len(found.pairs)
    if any(left_out):
        lines.append(f"Without a counterpart: {left_out[0]} layers of A, {left_out[1]} of B.")
    for verdict in ("unrelated", "changed", "changed, relabelled", "relabelled"):
        pairs = [pair for pair, said in enumerate(verdicts) if said == verdict]
        if not pairs:
            continue
        pairs.sort(key=lambda pair: found.cka[pair])
        named = ", ".join(
            f"{labels[found.pairs[pair, 0]]} (CKA {found.cka[pair]:.3f}, q {_p(found.q[pair])})"
            for pair in pairs[:NAMED]
        )
        more = f" and {len(pairs) - NAMED} more" if len(pairs) > NAMED else ""
        lines.append(f"{verdict.capitalize()}: {named}{more}.")
    lost = np.argwhere(found.expert_q > LEVEL)
    if len(lost):
        named = ", ".join(
            a.label(int(found.pairs[pair, 0]), int(expert)) for pair, expert in lost[:NAMED]
        )
        more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        lines.append(
            f"Experts of A without a counterpart beyond chance (q > {LEVEL:g}): {named}{more}."
        )
    moved = [
        (row, int(other))
        for row, other in found.pairs
        if found.alignment[row] >= 0 and found.alignment[row] != other
    ]
    if moved:
        shown = ", ".join(
            f"{labels[row]} → {b.label(int(found.alignment[row]))}" for row, _ in moved[:NAMED]
        )
        lines.append(f"By the best assignment of all layers {len(moved)} moved: {shown}.")
    changed = np.abs(found.breadth_change)
    pair, expert = np.unravel_index(int(changed.argmax()), changed.shape)
    lines.append(
        f"Largest change of selection probability (isotropic prior): "
        f"{a.label(int(found.pairs[pair, 0]), int(expert))} by "
        f"{found.breadth_change[pair, expert]:+.3f}."
    )
    return lines


def _p(value: float, draws: int | None = None) -> str:
    if draws is not None and value <= 1 / (1 + draws):
        return f"≤ {value:.2g}"
    return "< 0.0001" if value < 1e-4 else f"= {value:.2g}"


def layers_csv(a: RouterSet, b: RouterSet, found: Comparison) -> str:
    """One row for each layer that both sets have."""
    rows, others = found.pairs.T
    return table_csv(
        {
            "layer": [a.label(int(row)) for row in rows],
            "verdict": [found.verdict(pair) for pair in range(len(rows))],
            "CKA (0 to 1)": found.cka,
            f"z ({found.draws} draws, seed {found.seed})": found.z,
            "p": found.p,
            "q (Benjamini–Hochberg over layers)": found.q,
            "mean matched cosine (−1 to 1)": found.cosine.mean(axis=1),
            "weakest match (cosine)": found.cosine.min(axis=1),
            "experts that moved": (found.partner != np.arange(a.n_experts)).sum(axis=1),
            "best assignment in B": [
                b.label(int(found.alignment[row])) if found.alignment[row] >= 0 else ""
                for row in rows
            ],
        }
    )


def experts_csv(a: RouterSet, b: RouterSet, found: Comparison) -> str:
    """One row for each expert of each layer that both sets have."""
    pair, expert = (grid.ravel() for grid in np.indices(found.cosine.shape))
    rows = found.pairs[pair]
    partner = found.partner[pair, expert]
    return table_csv(
        {
            "expert of A": [
                a.label(int(row), int(e)) for row, e in zip(rows[:, 0], expert, strict=True)
            ],
            "expert of B": [
                b.label(int(row), int(e)) for row, e in zip(rows[:, 1], partner, strict=True)
            ],
            "cosine (−1 to 1)": found.cosine[pair, expert],
            "p": found.expert_p[pair, expert],
            "q (Benjamini–Hochberg over experts)": found.expert_q[pair, expert],
            "norm of B over norm of A": found.norm_ratio[pair, expert],
            "change of P(selected), isotropic prior": found.breadth_change[pair, expert],
        }
    )


def write(
    folder: Path, a: RouterSet, b: RouterSet, found: Comparison | None, lines: Sequence[str]
) -> list[str]:
    """Text, tables and figures in a folder; its other files stay.

    Raises:
      LensError: the folder cannot be written.
    """
    note = {"A": a.sha256, "B": b.sha256, "text": list(lines)}
    contents: dict[str, bytes] = {"summary.txt": ("\n".join(lines) + "\n").encode()}
    if found is not None:
        contents["layers.csv"] = layers_csv(a, b, found).encode()
        contents["experts.csv"] = experts_csv(a, b, found).encode()
        charts = {
            "layers_changed": figures.layers_changed(found, labels_of(a)),
            "layers_across": figures.layers_across(found, labels_of(a), labels_of(b)),
        }
        for name, chart in charts.items():
            contents[f"{name}.png"] = figures.figure_png(chart, 2, note=note)
            contents[f"{name}.svg"] = figures.figure_svg(chart, note=note).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=".compare.", dir=folder))
        try:
            for name, content in contents.items():
                (holder / name).write_bytes(content)
            for name in contents:
                (holder / name).replace(folder / name)
        finally:
            shutil.rmtree(holder, ignore_errors=True)
    except OSError as error:
        raise LensError(
            f"{folder}: {error.strerror}. Choose a folder that you may write to and that has room."
        ) from error
    return sorted(contents)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code: 0, or 2 with a message on an expected failure."""
    parser = argparse.ArgumentParser(
        prog="python -m lens.compare",
        description="Which layers and experts differ between two router sets, with nulls.",
    )
    parser.add_argument("a", metavar="A.npz", type=Path, help="the first router set")
    parser.add_argument("b", metavar="B.npz", type=Path, help="the second router set")
    parser.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="folder for tables and figures"
    )
    parser.add_argument(
        "--view", choices=VIEWS, default="canonical", help="which form of the routers is compared"
    )
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"of each null (default {DRAWS})")
    parser.add_argument("--seed", type=int, default=0, help="of the nulls (default 0)")
    options = parser.parse_args(arguments)
    try:
        if not 0 <= options.seed < 2**32:
            raise LensError(f"--seed: found {options.seed}; expected 0 to {2**32 - 1}.")
        a, b = load_routers(options.a), load_routers(options.b)
        settings = {"draws": options.draws, "seed": options.seed}
        found = None
        if why_not_directions(a, b) is None:
            found = compare_routers(a, b, options.view, **settings)
        alike = compare_structure(a, b, options.view, **settings)
        lines = [
            f"{name}: {routers.source}, {routers.n_layers} layers of {routers.n_experts} experts, "
            f"width {routers.d_model:,}, SHA-256 {routers.sha256[:12]}"
            for name, routers in (("A", a), ("B", b))
        ]
        for name, routers in (("A", a), ("B", b)):
            lines += [f"{name}: {sentence}" for sentence in caveats(routers)]
        lines += summary(a, b, found, alike)
        print("\n".join(lines))
        if options.output_dir is not None:
            names = write(options.output_dir, a, b, found, lines)
            print(f"{len(names)} files in {options.output_dir}")
    except LensError as error:
        print(f"lens.compare: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
