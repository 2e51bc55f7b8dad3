"""A feature changed by more and more, beside a random direction and a feature of like rate.

Axes: S subjects (the feature and its controls), N doses, R layers with a router, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from grok.dictionaries.attribution.steering import Change, steer, turned
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.errors import GrokError
from grok.experiments.what_if import divergence, log_softmax
from grok.interventions.edits import NO_EDITS, Edits
from grok.runner.batching import read_together

if TYPE_CHECKING:
    from grok.engine.compiled import Forward
    from grok.runner.interfaces import Prompt
    from grok.runner.model import Model

SUBJECTS = ("feature", "random direction", "feature of like rate")
PLACES = 16  # runs that go together


@dataclass(frozen=True, eq=False)
class DoseSweep:
    """What a run does as a feature is added to, beside controls of the same length.

    Attributes:
        subjects: what was moved [S], each one of `SUBJECTS`, random directions as often as asked.
        features: of each subject; -1 for a direction [S].
        doses: added to the strength [N], in units of the feature.
        layers: with a router [R].
        flips: tokens whose set of experts changed [S, N, R].
        gates: mean change of gate mass, half the sum of sizes [S, N, R].
        kl: KL(plain ‖ changed) of the next token, mean over tokens, in nats [S, N].
        tokens: how many tokens there are.
    """

    subjects: tuple[str, ...]
    features: np.ndarray
    doses: np.ndarray
    layers: np.ndarray
    flips: np.ndarray
    gates: np.ndarray
    kl: np.ndarray
    tokens: int


# many parameters: the public door to a sweep, all but five with a default
def dose_sweep(
    model: Model,
    dictionary: Dictionary,
    prompt: Prompt,
    change: Change,
    doses: Sequence[float],
    *,
    positions: int | Sequence[int] | slice | None = None,
    rates: np.ndarray | None = None,
    directions: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> DoseSweep:
    """Runs a prompt with a feature raised and lowered by doses, and with controls.

    Args:
        model: that the dictionary is for.
        dictionary: whose feature.
        prompt: text, or token ids.
        change: says feature and group; action and value are left aside.
        doses: added to the strength, never below 0.
        positions: of tokens; all when None.
        rates: how often each feature of the group is active [F]; then a feature of the nearest
            rate is a control too.
        directions: random ones, each with runs of its own: what the feature writes, `turned`.
        seed: of the random directions, and of the choice among the ten nearest rates.
        progress: told (runs done, runs in all); what it raises ends the sweep.

    Raises:
        GrokError: as `steer`, and for an unusable prompt, no doses or no direction.
    """
    if not len(doses):
        raise GrokError("doses: none; give at least one.")
    if directions < 1:
        raise GrokError(f"directions is {directions}; expected at least 1, for a control.")
    tokens, rng = model.encode(prompt), np.random.default_rng(seed)
    chosen, subjects = [change.feature, *[-1] * directions], list(SUBJECTS[:1])
    subjects += [SUBJECTS[1]] * directions
    if rates is not None:
        order = np.argsort(np.abs(np.asarray(rates) - rates[change.feature]), kind="stable")
        like = order[order != change.feature][:10]
        chosen.append(int(rng.choice(like)))
        subjects.append(SUBJECTS[2])
    rows = np.asarray(dictionary.params["decoder"][change.group])  # [F, W, D]
    drawn = np.stack([turned(rows[change.feature], rng) for _ in range(directions)])

    def edits(subject: int, dose: float) -> Edits:
        own = replace(change, action="add", value=float(dose))
        along = None
        if chosen[subject] < 0:
            along = drawn[subject - 1 : subject]
        else:
            own = replace(own, feature=chosen[subject])
        return steer(dictionary, own, positions=positions, directions=along)

    asked = [edits(s, dose) for s in range(len(chosen)) for dose in doses]
    plain = next(read_together(model, [(tokens, NO_EDITS)], 1))
    found = []
    for first in range(0, len(asked), PLACES):
        some = [(tokens, one) for one in asked[first : first + PLACES]]
        for run in read_together(model, some, 1):
            found.append(_beside(plain, run, tokens.size))
            if progress is not None:
                progress(len(found), len(asked))
    shape = len(chosen), len(doses)
    flips, gates, kl = (np.stack(one).reshape(*shape, -1) for one in zip(*found, strict=True))
    return DoseSweep(
        subjects=tuple(subjects),
        features=np.array(chosen),
        doses=np.asarray(doses, np.float64),
        layers=np.array(model.config.moe_layers),
        flips=flips,
        gates=gates,
        kl=kl[..., 0],
        tokens=tokens.size,
    )


def _beside(plain: Forward, run: Forward, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Changed sets and gate mass by layer [R], and KL in nats [1]."""
    n_experts = plain.router_probs.shape[-1]
    masses = []
    for one in (plain, run):
        hot = one.experts[:, 0, :n, :, None] == np.arange(n_experts)
        masses.append((one.gates[:, 0, :n, :, None] * hot).sum(2))  # [R, T, E]
    sets = [np.sort(one.experts[:, 0, :n], -1) for one in (plain, run)]
    logs = [log_softmax(one.logits[0, :n]) for one in (plain, run)]
    kl = np.mean([divergence(a, b) for a, b in zip(*logs, strict=True)])
    flips = (sets[0] != sets[1]).any(-1).sum(-1)
    return flips, np.abs(masses[0] - masses[1]).sum(-1).mean(-1) / 2, np.array([kl])
