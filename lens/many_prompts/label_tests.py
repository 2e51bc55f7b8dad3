"""Tests of whether texts of different labels go to different experts.

Axes: trace (N), layer (L), expert (E), group (G, the traces of one label), draw.

What is drawn and shuffled are traces, not tokens: tokens of one text are alike for many
reasons, so a thousand tokens of two texts are two observations. Each null permutes the
labels over the traces, each interval comes from how much the traces of a label differ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lens.errors import LensError
from lens.many_prompts.trace_folder import TraceFolder
from lens.stats.draws import check_draws
from lens.stats.p_values import benjamini_hochberg
from lens.stats.permutation_tests import SEED, AgainstChance, against_chance
from lens.traces.information import Information, position_information, token_information
from lens.traces.repeats import RepeatTest, repeat_test
from lens.words import significant

DRAWS = 1999
LEVEL = 0.95
TAKEN = 0.05
# Numbers of a block of draws that are held at once.
HELD = 2**24


@dataclass(frozen=True, eq=False)
class LabelLoad:
    """Load of every expert in the traces of each label.

    Attributes:
        share: of the label's (token, choice) assignments.
        low, high: interval over traces; not a number where a label has one trace.
        n_traces, n_tokens: of each label.
        level: of the interval.
    """

    share: Float[np.ndarray, "group layer expert"]
    low: Float[np.ndarray, "group layer expert"]
    high: Float[np.ndarray, "group layer expert"]
    n_traces: Int[np.ndarray, " group"]
    n_tokens: Int[np.ndarray, " group"]
    level: float = LEVEL


def load_by_label(folder: TraceFolder, *, level: float = LEVEL) -> LabelLoad:
    """Load of every expert for each label, with an interval over the label's traces.

    The load is Σ counts / Σ assignments over traces, a ratio; its standard error is that of
    a ratio of means of independent traces, and the interval takes Student's t with one
    degree of freedom less than there are traces. With two or three traces it is wide, as it
    should be. It is cut off at 0 and at 1 / K.
    """
    from scipy.stats import t

    totals = folder.counts.sum(axis=2)[:, 0].astype(np.float64)  # assignments of a trace
    shape = (len(folder.labels), *folder.counts.shape[1:])
    share, low, high = np.empty(shape), np.full(shape, np.nan), np.full(shape, np.nan)
    for group in range(len(folder.labels)):
        own = folder.label_of == group
        counts, total = folder.counts[own].astype(np.float64), totals[own]
        n = len(total)
        share[group] = counts.sum(axis=0) / total.sum()
        if n < 2:
            continue
        left = counts - share[group] * total[:, None, None]
        error = np.sqrt((left**2).sum(axis=0) * n / (n - 1)) / total.sum()
        reach = t.ppf((1 + level) / 2, n - 1) * error
        low[group] = np.clip(share[group] - reach, 0, None)
        high[group] = np.clip(share[group] + reach, None, 1 / folder.top_k)
    tokens = np.bincount(folder.label_of, folder.n_tokens, minlength=len(folder.labels))
    return LabelLoad(share, low, high, folder.traces_of_label, tokens.astype(int), level)


@dataclass(frozen=True, eq=False)
class LabelTest:
    """Test of a difference between labels in the experts they use, and the experts each prefers.

    Attributes:
        test: mutual information of label and expert in nats, by layer, with its null.
        entropy: H(expert) by layer, in nats.
        lift: load under a label over the load in all traces; not a number for an unused one.
        difference: load under a label less the load under all others.
        p: two-sided p-values of the differences.
        q: over all labels, layers and experts, after Benjamini and Hochberg.
        smallest_p: the smallest p-value that so many traces can give.
        load: of each label.
        draws, seed: of the permutations.
        note: what to keep in mind; may be empty.
    """

    test: AgainstChance
    entropy: Float[np.ndarray, " layer"]
    lift: Float[np.ndarray, "group layer expert"]
    difference: Float[np.ndarray, "group layer expert"]
    p: Float[np.ndarray, "group layer expert"]
    q: Float[np.ndarray, "group layer expert"]
    smallest_p: float
    load: LabelLoad
    draws: int
    seed: int
    note: str


def labels_taken(
    share: Float[np.ndarray, "label layer expert"],
    elsewhere: Float[np.ndarray, "label layer expert"],
    q: Float[np.ndarray, "label layer expert"],
) -> Bool[np.ndarray, "label layer expert"]:
    """Which labels' tokens an expert takes more of than of the others, q ≤ 0.05.

    A label counts where its share is also at least half of the largest that the expert has.

    Args:
        share: of the label's tokens that the expert takes.
        elsewhere: the same of all other tokens.
        q: of the difference.
    """
    real = (np.nan_to_num(q, nan=1) <= TAKEN) & (share > elsewhere)
    return np.asarray(real & (share >= share.max(axis=0) / 2))


def main_label(
    taken: Bool[np.ndarray, "label layer expert"], over: Float[np.ndarray, "label layer expert"]
) -> Int[np.ndarray, "layer expert"]:
    """The label that stands out most of those that an expert takes; -1 where it takes none.

    Args:
        taken: see `labels_taken`.
        over: by how much the share of a label's tokens is above that of all others.
    """
    return np.where(taken.any(axis=0), np.where(taken, over, -np.inf).argmax(axis=0), -1)


def check_labels(
    folder: TraceFolder,
    things: str = "traces",
    advice: str = "Label the traces by subfolders or by a file of labels.",
) -> None:
    """Refuses labels that cannot be compared.

    Args:
        things: what is labelled, for people.
        advice: what to do about it.

    Raises:
        LensError: fewer than two labels, or a label with fewer than two traces.
    """
    few = [
        f"{label} ({n})"
        for label, n in zip(folder.labels, folder.traces_of_label, strict=True)
        if n < 2
    ]
    if len(folder.labels) < 2 or few:
        found = f"labels with fewer: {', '.join(few[:5])}" if few else f"one: {folder.labels[0]}"
        raise LensError(
            f"A comparison of labels needs at least two labels with two {things} each; found "
            f"{found}. {advice}"
        )


def label_test(folder: TraceFolder, *, draws: int = DRAWS, seed: int = SEED) -> LabelTest:
    """Differences between labels against labels permuted over the traces.

    By layer, I(label; expert) = Σ p(g, e) ln [p(g, e) / (p(g) p(e))] over all (token,
    choice) assignments, in nats. By label and expert, the load under the label less that
    under all other labels. Both are computed anew with the labels handed to the traces at
    random, which keeps each trace as it is.

    Reading it: what a label's lift says holds for texts like these. If the labels differ in
    length or in their first tokens, part of the difference is due to that.

    Raises:
        LensError: fewer than two labels, or a label with fewer than two traces.
    """
    check_labels(folder)
    check_draws(draws)
    rng = np.random.default_rng(seed)
    n_traces, n_layers, n_experts = folder.counts.shape
    n_groups = len(folder.labels)
    flat = folder.counts.reshape(n_traces, -1).astype(np.float64)
    totals = folder.counts.sum(axis=2)[:, 0].astype(np.float64)
    own_info, own_gap = _statistics(
        _one_hot(folder.label_of[None], n_groups), flat, totals, n_layers
    )
    infos = np.empty((draws, n_layers))
    beyond = np.zeros((2, *own_gap.shape[1:]))
    slack = 1e-12
    block = int(np.clip(HELD // (n_groups * flat.shape[1]), 1, draws))
    for start in range(0, draws, block):
        n = min(block, draws - start)
        orders = rng.permuted(np.tile(folder.label_of, (n, 1)), axis=1)
        infos[start : start + n], gaps = _statistics(
            _one_hot(orders, n_groups), flat, totals, n_layers
        )
        beyond[0] += (gaps >= own_gap - slack).sum(axis=0)
        beyond[1] += (gaps <= own_gap + slack).sum(axis=0)
    p = np.minimum(2 * (1 + beyond.min(axis=0)) / (1 + draws), 1)
    shape = (n_groups, n_layers, n_experts)
    all_load = folder.counts.sum(axis=0) / totals.sum()
    used = np.broadcast_to(all_load > 0, shape)
    p = np.where(used, p.reshape(shape), np.nan)
    load = load_by_label(folder)
    lift = np.divide(load.share, all_load, out=np.full(shape, np.nan), where=used)
    ways = _arrangements(folder.traces_of_label)
    smallest = max(1 / (1 + draws), 1 / ways)
    note = ""
    if ways < 40:
        note = (
            f"{n_traces} traces form such groups in {ways} ways only: no p-value is much below "
            f"{significant(1 / ways, 2)}: add traces."
        )
    logs = np.log(np.where(all_load > 0, all_load, 1))
    return LabelTest(
        test=against_chance(
            own_info[0],
            infos,
            seed=seed,
            method=f"labels permuted over the {n_traces:,} traces, {draws:,} times",
        ),
        entropy=-(all_load * logs).sum(axis=1),
        lift=lift,
        difference=own_gap[0].reshape(shape),
        p=p,
        q=benjamini_hochberg(p),
        smallest_p=smallest,
        load=load,
        draws=draws,
        seed=seed,
        note=note,
    )


def _one_hot(labels: np.ndarray, n_groups: int) -> Float[np.ndarray, "draw group trace"]:
    return (labels[:, None, :] == np.arange(n_groups)[:, None]).astype(np.float64)


def _statistics(
    groups: Float[np.ndarray, "draw group trace"],
    flat: Float[np.ndarray, "trace cell"],
    totals: Float[np.ndarray, " trace"],
    n_layers: int,
) -> tuple[Float[np.ndarray, "draw layer"], Float[np.ndarray, "draw group_cell"]]:
    """Mutual information by layer, and load of each label less that of the others."""
    joint = groups @ flat  # [draw, G, L·E]
    size = groups @ totals  # [draw, G]
    everything, whole = flat.sum(axis=0), totals.sum()
    ratio = np.divide(
        joint * whole,
        size[..., None] * everything,
        out=np.ones_like(joint),
        where=joint > 0,
    )
    terms = joint * np.log(ratio) / whole
    info = terms.reshape(len(groups), groups.shape[1], n_layers, -1).sum(axis=(1, 3))
    gap = joint / size[..., None] - (everything - joint) / (whole - size)[..., None]
    return info, gap.reshape(len(groups), -1)


def _arrangements(sizes: np.ndarray) -> int:
    """In how many ways the traces fall into groups of these sizes, whichever label each has."""
    ways, left = 1, int(sizes.sum())
    for size in sizes:
        ways *= math.comb(left, int(size))
        left -= int(size)
    for alike in np.unique(sizes, return_counts=True)[1]:
        ways //= math.factorial(int(alike))
    return ways


# --- the statistics of single texts, over all traces ------------------------------


def folder_token_information(folder: TraceFolder, **options: object) -> Information:
    """`lens.traces.information.token_information` over all traces, each shuffled within itself."""
    return token_information(
        folder.tokens,
        folder.experts,
        folder.n_experts,
        groups=folder.trace_of,
        **options,  # type: ignore[arg-type]
    )


def folder_position_information(folder: TraceFolder, **options: object) -> Information:
    """`traces.information.position_information` over all traces, each turned round on its own."""
    return position_information(
        folder.experts,
        folder.n_experts,
        groups=folder.trace_of,
        **options,  # type: ignore[arg-type]
    )


def folder_repeats(folder: TraceFolder, label: int | None = None, **options: object) -> RepeatTest:
    """`lens.traces.repeats.repeat_test` over all traces, or over those of one label."""
    part = (
        slice(None)
        if label is None
        else np.isin(folder.trace_of, np.flatnonzero(folder.label_of == label))
    )
    return repeat_test(
        folder.experts[:, part],
        folder.n_experts,
        groups=folder.trace_of[part],
        **options,  # type: ignore[arg-type]
    )


def effective_by_label(load: LabelLoad) -> Float[np.ndarray, "group layer"]:
    """exp(H) of each label's load: see `lens.traces.routing.effective_experts`."""
    logs = np.log(np.where(load.share > 0, load.share, 1))
    return np.exp(-(load.share * logs).sum(axis=2))
