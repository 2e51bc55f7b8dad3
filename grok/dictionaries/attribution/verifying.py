"""Flips checked by running the model: the dose at which a route really changes.

The layer is run with the stream moved along each direction, from what the plain run gave it, and
the dose is halved in until the change is known to one part in some thousands. An edit of
`resid_mid` moves what router and experts read; one of `router.input` moves the router alone.

Axes: N directions, B runs together, T tokens, D width, K experts a token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from grok.dictionaries.attribution.flips import FlipTable, first_doses
from grok.dictionaries.attribution.reading import PromptFeatures
from grok.engine.compiled import bucket, padded
from grok.engine.interfaces import Part
from grok.errors import GrokError
from grok.interventions.hooks import Edit
from grok.interventions.kinds import Intervention
from grok.interventions.sites import HookPoint

if TYPE_CHECKING:
    from grok.runner.model import Model

SITES = ("resid_mid", "router.input")
TOGETHER = 16  # runs
STEPS = 14
AGREES = 2e-3  # relative, of a dose measured to 2 ** (1 - STEPS)


@dataclass(frozen=True, eq=False)
class FlipCheck:
    """Predicted and measured doses.

    Attributes:
        site: that was edited.
        predicted, measured: doses [N]; inf in `measured` where nothing changed up to twice the
            dose that was predicted.
        expected, found: the expert that leaves and the one that comes [N, 2]; -1 where the set
            did not change by one expert.
        is_random: whether a row is a random direction instead of a feature [N].
        lengths: of the directions in the stream [N]; dose times length compares them.
    """

    site: str
    predicted: np.ndarray
    measured: np.ndarray
    expected: np.ndarray
    found: np.ndarray
    is_random: np.ndarray
    lengths: np.ndarray

    @property
    def agrees(self) -> np.ndarray:
        """Whether the dose is what was predicted and the experts are too [N]."""
        with np.errstate(invalid="ignore"):
            near = np.abs(self.measured / self.predicted - 1) < AGREES
        found: np.ndarray = near & (self.expected == self.found).all(1)
        return found


def verify_flips(
    model: Model,
    read: PromptFeatures,
    table: FlipTable,
    *,
    rows: int = 8,
    random: int = 8,
    site: str = "resid_mid",
    seed: int = 1,
    progress: Callable[[int, int], object] | None = None,
) -> FlipCheck:
    """Runs the model at the doses of a table's first rows and of random directions.

    Args:
        model: that the prompt was read with.
        read: the prompt.
        table: of one of its tokens.
        rows: features to check, those of the least effort.
        random: directions drawn as a control.
        site: "resid_mid" or "router.input".
        seed: of the draws.
        progress: told (done, total); what it raises ends the check.

    Raises:
        GrokError: no such site.
    """
    if site not in SITES:
        raise GrokError(f"site is {site!r:.40}; expected {' or '.join(SITES)}.")
    layer, token = table.layer, table.token
    readout, h = read.readouts[layer], read.stream(layer, token)
    drawn = np.random.default_rng(seed).standard_normal((random, len(h)))
    directions = np.concatenate([table.rows[:rows], drawn])
    some = min(rows, len(table.rows))
    held = site == "router.input"
    doses = first_doses(readout, h, directions, table.experts, held=held)
    up = doses.up <= -doses.down
    up[:some] = table.dose[:some] > 0
    predicted = np.where(up, doses.up, doses.down)
    expected = np.where(
        up[:, None],
        np.stack([doses.up_out, doses.up_in], 1),
        np.stack([doses.down_out, doses.down_in], 1),
    )
    there = np.isfinite(predicted)
    there[:some] &= np.isfinite(table.dose[:some])
    predicted, expected = predicted[there], expected[there]
    moved = directions[there]
    runs = _Runs(model, read, layer, token, site)
    edited = readout.normed(moved, h) if held else moved
    measured, found = _bisected(runs, edited, predicted, table.experts, progress)
    is_random = (np.arange(len(directions)) >= some)[there]
    lengths = np.linalg.norm(moved, axis=1)
    return FlipCheck(site, predicted, measured, expected, found, is_random, lengths)


def _bisected(
    runs: _Runs,
    directions: np.ndarray,
    predicted: np.ndarray,
    experts: np.ndarray,
    progress: Callable[[int, int], object] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Doses between 0 and twice the predicted ones where the set changes, and what changed."""
    own = np.sort(experts)
    low, high = np.zeros_like(predicted), 2 * predicted
    found = runs.experts(directions * high[:, None])
    changes = (np.sort(found, 1) != own).any(1)
    for step in range(STEPS):
        middle = (low + high) / 2
        chosen = runs.experts(directions * middle[:, None])
        changed = (np.sort(chosen, 1) != own).any(1)
        low, high = np.where(changed, low, middle), np.where(changed, middle, high)
        found = np.where(changed[:, None], chosen, found)
        if progress is not None:
            progress(step + 1, STEPS)
    pairs = np.full((len(predicted), 2), -1)
    for i, chosen in enumerate(found):
        out, into = np.setdiff1d(own, chosen), np.setdiff1d(chosen, own)
        if len(out) == len(into) == 1:
            pairs[i] = out[0], into[0]
    return np.where(changes, high, np.inf), pairs


def _add_row(value: jax.Array, rows: jax.Array) -> jax.Array:
    return value.astype(jnp.float32) + rows[:, None]


class _Runs:
    """One layer run with additions of their own to one token."""

    def __init__(
        self, model: Model, read: PromptFeatures, layer: int, token: int, site: str
    ) -> None:
        self._model, self._layer, self._site, self._token = model, layer, site, token
        n = bucket(read.tokens.size)
        given = padded([read.tokens], n, model.engine.architecture.pad_token)
        stream = read.values[HookPoint(layer, "resid_pre")]
        self._h = np.zeros((TOGETHER, n, stream.shape[1]), np.float32)
        self._h[:, : len(stream)] = stream
        self._keys = np.repeat(given.keys, TOGETHER, axis=0)
        self._at = np.zeros((1, n), bool)
        self._at[0, token] = True

    def experts(self, additions: np.ndarray) -> np.ndarray:
        """Chosen with each of the additions [N, D] to the token, [N, K]."""
        engine, out = self._model.engine, []
        for i in range(0, len(additions), TOGETHER):
            rows = np.zeros((TOGETHER, additions.shape[1]), np.float32)
            own = additions[i : i + TOGETHER]
            rows[: len(own)] = own
            edit = Edit(Intervention(_add_row, (rows,), "add"), self._at)
            part = Part(
                self._h,
                np.int32(0),
                self._keys,
                engine.cache(*self._keys.shape),
                {self._site: (edit,)},
            )
            with engine.layers.walk(self._keys.size, self._layer, logits=False) as walk:
                done = next(iter(walk.layer(self._layer, [part])))
            assert done.choice is not None
            out.append(np.asarray(done.choice.experts)[: len(own), self._token])
        return np.concatenate(out)
