"""The smallest change of one feature that changes which experts a token goes to.

For a chosen expert a and another b, moving the stream along a direction d by δ makes the two equal
where ⟨h + δd, v⟩ + bias · length(h + δd) = 0, v and bias being the differences of their columns
and biases. Without a bias the length cancels. The set changes first at the smallest δ of all pairs.
It can be reached by changing the feature where δ ≥ −f, its activation: a feature is never negative.

Axes: N directions, K experts chosen, O others, E experts, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grok.dictionaries.attribution.reading import PromptFeatures
from grok.dictionaries.attribution.readout import Readout
from grok.errors import GrokError
from grok.interventions.sites import HookPoint

HELD = 2**22  # numbers that are held at once
CONTROLS = 200


@dataclass(frozen=True, eq=False)
class Doses:
    """First changes of the chosen set along directions.

    Attributes:
        up: the smallest positive dose [N]; inf for none.
        up_out, up_in: the expert that leaves and the one that comes [N]; -1 for none.
        down: the negative dose nearest to 0 [N]; -inf for none.
        down_out, down_in: likewise.
    """

    up: np.ndarray
    up_out: np.ndarray
    up_in: np.ndarray
    down: np.ndarray
    down_out: np.ndarray
    down_in: np.ndarray


@dataclass(frozen=True, eq=False)
class FlipTable:
    """Smallest doses of features that change one token's route, the smallest effort first.

    Attributes:
        layer, token, piece: of the router and its token.
        experts: chosen without a change [K].
        sites, groups, features: of each row [N].
        rows: what a unit of each feature adds to the stream [N, D].
        values: their activations [N]; 0 where a feature is not active.
        doses: first changes along each, in units of the feature.
        reachable: the feature can be lowered by as much as `down` says [N].
        dose: the smaller of both in size that can be reached [N]; inf for none.
        effort: |dose| times the length of the direction [N], so that features compare.
        random: the same of random directions [R], sorted.
        untrained: the token stands where the dictionary was not trained.
    """

    layer: int
    token: int
    piece: str
    experts: np.ndarray
    sites: tuple[str, ...]
    groups: np.ndarray
    features: np.ndarray
    rows: np.ndarray
    values: np.ndarray
    doses: Doses
    reachable: np.ndarray
    dose: np.ndarray
    effort: np.ndarray
    random: np.ndarray
    untrained: bool

    def pair(self, row: int) -> tuple[int, int]:
        """The expert that leaves and the one that comes at the dose of a row; -1 for none."""
        up = self.dose[row] > 0
        own = self.doses
        if up:
            return int(own.up_out[row]), int(own.up_in[row])
        return int(own.down_out[row]), int(own.down_in[row])

    def below_random(self) -> np.ndarray:
        """The share of random directions that change the route with less effort [N]."""
        found: np.ndarray = np.searchsorted(self.random, self.effort) / len(self.random)
        return found


def first_doses(
    readout: Readout,
    h: np.ndarray,
    directions: np.ndarray,
    experts: np.ndarray,
    *,
    held: bool = False,
) -> Doses:
    """First changes of the chosen set as the stream moves along directions.

    Args:
        readout: of the router.
        h: the stream [D].
        directions: [N, D].
        experts: chosen [K].
        held: whether the norm's length stays as it is, as for a change of `router.input`.

    Raises:
        GrokError: the largest logits are not simply chosen in this family.
    """
    if readout.not_by_logits:
        raise GrokError(
            f"Layer {readout.layer}: {readout.not_by_logits}, so no dose follows from the logits "
            "alone; accounts hold here, flips do not."
        )
    chosen = np.unique(experts[experts >= 0])
    others = np.setdiff1d(np.arange(readout.columns.shape[1]), chosen)
    n = len(directions)
    if not len(others):
        none, far = np.full(n, -1), np.full(n, np.inf)
        return Doses(far, none, none, -far, none, none)
    most = max(1, HELD // (len(chosen) * len(others)))
    parts = [
        _of_some(readout, h, directions[i : i + most], chosen, others, held)
        for i in range(0, n, most)
    ]
    return Doses(*(np.concatenate(one) for one in zip(*parts, strict=True)))


def _of_some(
    readout: Readout,
    h: np.ndarray,
    directions: np.ndarray,
    chosen: np.ndarray,
    others: np.ndarray,
    held: bool,
) -> tuple[np.ndarray, ...]:
    d = np.asarray(directions, np.float64)
    at, slope = h @ readout.columns, d @ readout.columns
    a = at[chosen][:, None] - at[others]  # [K, O]
    b = slope[:, chosen, None] - slope[:, None, others]  # [N, K, O]
    c = readout.bias[chosen][:, None] - readout.bias[others]
    with np.errstate(divide="ignore", invalid="ignore"):
        if held or not c.any():
            roots = -(a + c * readout.length(h)) / b
            up, down = np.where(roots > 0, roots, np.inf), np.where(roots < 0, roots, -np.inf)
        else:
            up, down = _with_bias(readout, h, d, a, b, c)
    k = len(others)
    n = len(d)
    flat_up, flat_down = up.reshape(n, -1), down.reshape(n, -1)
    rows = np.arange(n)
    first, last = flat_up.argmin(1), flat_down.argmax(1)
    out = []
    for values, which in ((flat_up, first), (flat_down, last)):
        dose = values[rows, which]
        there = np.isfinite(dose)
        out += [
            dose,
            np.where(there, chosen[which // k], -1),
            np.where(there, others[which % k], -1),
        ]
    return tuple(out)


def _with_bias(
    readout: Readout, h: np.ndarray, d: np.ndarray, a: np.ndarray, b: np.ndarray, c: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest roots of a + bδ + c·length(h + δd) = 0 on both sides of 0, [N, K, O].

    The length squared is q0 + q1 δ + q2 δ², so the roots are among those of a quadratic; those of
    the other sign of c are taken out.
    """
    centre, along = readout.off_mean(h), readout.off_mean(d)
    width = len(h)
    q0 = np.square(centre).mean() + readout.epsilon
    q1 = (2 * along @ centre / width)[:, None, None]
    q2 = np.square(along).mean(-1)[:, None, None]
    two, one, zero = b**2 - c**2 * q2, 2 * a * b - c**2 * q1, a**2 - c**2 * q0
    inner = one**2 - 4 * two * zero
    root = np.sqrt(np.where(inner > -1e-9 * one**2, np.maximum(inner, 0), np.nan))
    stable = -(one + np.where(one < 0, -1.0, 1.0) * root) / 2
    up = np.full(np.broadcast_shapes(a.shape, b.shape), np.inf)
    down = -up
    for found in (stable / two, zero / stable):
        # Of the two signs that squaring allows, the one where the sides are opposite.
        fits = np.isfinite(found) & (c * (a + b * found) <= 0)
        up = np.where(fits & (found > 0), np.minimum(up, found), up)
        down = np.where(fits & (found < 0), np.maximum(down, found), down)
    return up, down


def smallest_flips(
    read: PromptFeatures,
    layer: int,
    token: int,
    *,
    inactive: bool = False,
    seed: int = 0,
) -> FlipTable:
    """Doses of a prompt's features that change which experts a token goes to.

    The features are those that the stream at that router is the sum of. Those of earlier layers
    are moved in the stream there, as if nothing between had read them.

    Args:
        read: the prompt, from `read_features`.
        layer: of the router.
        token: position, negative from the end.
        inactive: features that are not active too, which can only be raised.
        seed: of the random directions.

    Raises:
        GrokError: there is no such router or token, or the family does not choose by logits.
    """
    row, at = read.row(layer), read.position(token)
    readout, h = read.readouts[layer], read.stream(layer, at)
    decoders, design = read.dictionary.params["decoder"], read.dictionary.design
    sites: list[str] = []
    found: list[tuple[np.ndarray, ...]] = []
    for part in read.parts(HookPoint(layer, "resid_mid"), at):
        if part.indexes is None:
            continue
        assert part.strengths is not None
        indexes, rows, values = part.indexes, part.rows, part.strengths
        if inactive:
            target = design.targets.index(part.point)
            every = decoders[part.group][:, design.groups[part.group].writes.index(target)]
            indexes, rows = np.arange(len(every)), np.asarray(every, np.float64)
            values = read.features[part.group][at].astype(np.float64)
        sites += [str(part.point)] * len(indexes)
        found.append((np.full(len(indexes), part.group), indexes, values, rows))
    if not found:
        raise GrokError(
            f"A {design.kind} of {', '.join(map(str, design.targets[:3]))} writes nothing that "
            f"layer {layer}'s router reads. Choose a later layer, or another dictionary."
        )
    groups, indexes, values, rows = (np.concatenate(one) for one in zip(*found, strict=True))
    experts = read.experts[row, at]
    doses = first_doses(readout, h, rows, experts)
    reachable = doses.down >= -values
    down = np.where(reachable, -doses.down, np.inf)
    dose = np.where(doses.up <= down, doses.up, -down)
    dose = np.where(np.isfinite(dose), dose, np.inf)
    with np.errstate(invalid="ignore"):
        effort = np.abs(dose) * np.linalg.norm(rows, axis=1)
    order = np.argsort(effort, kind="stable")
    return FlipTable(
        layer=layer,
        token=at,
        piece=read.pieces[at],
        experts=experts,
        sites=tuple(sites[i] for i in order),
        groups=groups[order],
        features=indexes[order],
        rows=rows[order],
        values=values[order],
        doses=Doses(*(one[order] for one in vars(doses).values())),
        reachable=reachable[order],
        dose=dose[order],
        effort=effort[order],
        random=_random_efforts(readout, h, experts, seed),
        untrained=at < read.skipped,
    )


def _random_efforts(readout: Readout, h: np.ndarray, experts: np.ndarray, seed: int) -> np.ndarray:
    """Lengths of the first change along random directions, either way, sorted."""
    drawn = np.random.default_rng(seed).standard_normal((CONTROLS, len(h)))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    doses = first_doses(readout, h, drawn, experts)
    return np.sort(np.minimum(doses.up, -doses.down))
