"""One training run: measured, trained from wherever it stands, calibrated, folded and saved."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from grok.dictionaries.kinds.design import Design
from grok.dictionaries.kinds.dictionary import Dictionary, finished
from grok.dictionaries.kinds.files import save_dictionary
from grok.dictionaries.kinds.normalising import Units, measured
from grok.dictionaries.training.checkpoint import load_state, read_log, save_state, write_log
from grok.dictionaries.training.devices import first_process, on_devices, on_host
from grok.dictionaries.training.losses import Batch, Parts
from grok.dictionaries.training.progress import Reporter, Screen, close_all
from grok.dictionaries.training.routers import router_columns
from grok.dictionaries.training.settings import Settings
from grok.dictionaries.training.source import (
    OUTLIER,
    Computed,
    Source,
    Stored,
    first_position_ratio,
)
from grok.dictionaries.training.step import SAMPLE, begun, begun_on, calibrated, make_step
from grok.dictionaries.training.update import Constants, State, constants_of
from grok.dictionaries.training.windows import Order, Windows, evenly
from grok.errors import GrokError

if TYPE_CHECKING:
    from grok.runner.model import Model


class Measured(NamedTuple):
    """What a run measured before its first step, as arrays that a checkpoint keeps.

    reads, writes: units; ratio: how much longer values at position 0 are; skipped: positions at
    the start of each window that are left out; routers: [M, D, E], see `router_columns`, with no
    experts where the loss has no routing term.
    """

    reads: tuple[np.ndarray, ...]
    writes: tuple[np.ndarray, ...]
    ratio: np.ndarray
    skipped: np.ndarray
    routers: np.ndarray


@dataclass(frozen=True)
class Run:
    """A run and where it stands on disk.

    Attributes:
        settings: of the run.
        model: whose activations are learned from.
        windows: of the text.
        output: folder of the dictionary; the run's own is beside it.
        stored: a collection to read from; or None.
        mesh: of several devices; or None.
    """

    settings: Settings
    model: Model
    windows: Windows
    output: Path
    stored: Stored | None = None
    mesh: Mesh | None = None

    @property
    def work(self) -> Path:
        """The run's own folder."""
        return self.output.with_name(self.output.name + ".run")

    @property
    def design(self) -> Design:
        return self.settings.dictionary.design(self.model.config)

    def identity(self) -> dict[str, Any]:
        """What a checkpoint belongs to."""
        return {
            "settings": self.settings.values(),
            "model_sha256": self.model.sha256,
            "text_sha256": self.windows.sha256(),
        }

    def values(self) -> Computed | Stored:
        return self.stored or Computed(self.model, self.windows)

    def source(self, skipped: int) -> Source:
        """Batches, the first positions of windows left out."""
        schedule = self.settings.training
        block = self.settings.text.buffer * schedule.batch
        order = Order(self.windows.lengths, skipped, block, schedule.seed)
        return Source(self.design, self.values(), order, schedule.batch)

    def measured(self) -> Measured:
        """Units of training, and whether first tokens count; see `Text.first_tokens`."""
        ratio = first_position_ratio(self.design, self.values(), self.windows)
        skipped = int(self.settings.text.first_tokens == "measured" and ratio > OUTLIER)
        block = self.source(skipped).block(0)
        n = self.settings.normalisation.tokens
        own = self.settings.normalisation
        reads = measured(np.asarray(block.x)[:, :n], own.reads)
        writes = measured(np.asarray(block.y)[:, :n], own.writes)
        routers = np.zeros((len(self.design.targets), self.design.d_model, 0))
        if self.settings.loss.routing:
            n = max(1, SAMPLE // int(self.windows.lengths.max()))
            some = evenly(len(self.windows.tokens), n).tolist()
            routers = router_columns(self.values(), some, self.windows.lengths, self.design.layers)
        return Measured(_parts(reads), _parts(writes), np.array(ratio), np.array(skipped), routers)


def _parts(units: Units) -> tuple[np.ndarray, ...]:
    return units.shift, units.scale, units.mean, units.variances


def train(run: Run, *, resume: bool = False, reporters: Sequence[Reporter] = ()) -> Dictionary:
    """Trains from wherever the run stands, then saves the dictionary.

    Args:
        run: what to train.
        resume: go on with what stands in the run's folder.
        reporters: told the numbers of some steps.

    Raises:
        GrokError: the output or the run's folder is in use or of another run, or cannot be
            written; what is finished stays.
    """
    _check_output(run, resume)
    constants, state, facts, source = _start(run, resume)
    schedule = run.settings.training
    first = int(state.step)
    log = read_log(run.work, first)
    screen = Screen(schedule.steps, first, schedule.batch)
    told = (screen, *reporters) if first_process() else ()
    step = make_step(run.design, run.settings, run.mesh)
    try:
        for i in range(first, schedule.steps):
            state, parts = step(state, on_devices(source.at(i), run.mesh), constants)
            done = i + 1
            if done % schedule.log_every == 0 or done == schedule.steps:
                numbers = _numbers(state, parts, schedule.dead_window)
                if not np.isfinite(numbers["loss"]):
                    raise GrokError(
                        f"Step {done}: the loss is not finite. Lower training.learning_rate."
                    )
                log.append({"step": done, "tokens_per_s": screen.rate(done), **numbers})
                for one in told:
                    one.tell(done, numbers)
            if done % schedule.save_every == 0 or done == schedule.steps:
                whole = on_host(state)
                if first_process():
                    write_log(run.work, log)
                    save_state(run.work, (whole, facts), run.identity())
    finally:
        close_all(told)
    dictionary = _finished(run, constants, state, facts, source, log)
    if first_process():
        save_dictionary(run.output, dictionary)
    return dictionary


def _check_output(run: Run, resume: bool) -> None:
    if run.output.exists() and any(run.output.iterdir()):
        raise GrokError(f"{run.output}: exists and is not empty. Choose a new folder.")
    if run.work.exists() and any(run.work.iterdir()) and not resume:
        raise GrokError(
            f"{run.work}: a run stands there. Go on with --resume, or remove the folder."
        )
    try:
        run.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GrokError(f"{run.work}: cannot be made ({error.strerror}).") from error


def _start(run: Run, resume: bool) -> tuple[Constants, State, Measured, Source]:
    """The state of the run: from its checkpoint, or before its first step."""
    design = run.design
    kept = load_state(run.work, _like(run), run.identity()) if resume else None
    if kept is None:
        facts = run.measured()
    else:
        facts = Measured(*kept[1])
    source = run.source(int(facts.skipped))
    constants = on_devices(_constants(facts), run.mesh)
    if kept is None:
        sample = on_devices(_sample(source, 0), run.mesh, split=False)
        state = begun_on(run.mesh, design, run.settings, constants, sample)
    else:
        # Arrays of their own: a step gives its state's memory away.
        state = jax.tree.map(jnp.copy, on_devices(kept[0], run.mesh))
    print(
        f"{design.n_parameters:,} parameters, {run.windows.lengths.sum():,} tokens; position 0 is "
        f"{'left out' if facts.skipped else 'kept'}: its values are {float(facts.ratio):.2f} times "
        f"as long as others; from step {int(state.step)} of {run.settings.training.steps}",
        file=sys.stderr,
        flush=True,
    )
    return constants, state, facts, source


def _constants(facts: Measured) -> Constants:
    writes = Units(*facts.writes)
    routers = facts.routers / writes.scale[:, :, None] if facts.routers.size else None
    return constants_of(Units(*facts.reads), writes, routers)


def _like(run: Run) -> Any:
    """A pytree of the shapes and dtypes of a checkpoint."""
    design = run.design
    s, m, d = len(design.sources), len(design.targets), design.d_model

    def state() -> State:
        batch = Batch(
            jnp.zeros((s, 16, d)),
            jnp.zeros((m, 16, d)),
            jnp.zeros((s, 16, 1), jnp.int32) if design.n_experts else None,
        )
        ones = Units(np.zeros((s, d)), np.ones((s, d)), np.zeros((s, d)), np.ones((s, d)))
        outs = Units(np.zeros((m, d)), np.ones((m, d)), np.zeros((m, d)), np.ones((m, d)))
        return begun(design, run.settings, constants_of(ones, outs), batch)

    units = [tuple(np.zeros((n, d)) for _ in range(4)) for n in (s, m)]
    experts = run.model.config.n_experts if run.settings.loss.routing else 0
    facts = Measured(units[0], units[1], np.array(0.0), np.array(0), np.zeros((m, d, experts)))
    return jax.eval_shape(state), facts


def _sample(source: Source, block: int) -> Batch:
    """Some tokens of a block, windows in their order."""
    whole = source.block(block)
    rows = source.order.mixed(block)[:SAMPLE]
    chosen = None if whole.chosen is None else whole.chosen[:, rows]
    return Batch(whole.x[:, rows], whole.y[:, rows], chosen)


def _numbers(state: State, parts: Parts, window: int) -> dict[str, float]:
    """What a step's line says."""
    error = float(jnp.mean(parts.error))
    return {
        "loss": error + float(parts.penalty) + float(parts.auxiliary),
        "ev": 1.0 - error,
        "l0": float(jnp.mean(parts.active)),
        "dead": float(jnp.mean(state.idle > window)),
        "penalty": float(parts.penalty),
        "auxiliary": float(parts.auxiliary),
    }


def _finished(
    run: Run,
    constants: Constants,
    state: State,
    facts: Measured,
    source: Source,
    log: Sequence[Mapping[str, float]],
) -> Dictionary:
    settings, design = run.settings, run.design
    levels = np.asarray(state.levels)
    if settings.activation.function == "batch_topk":
        per_block = source.order.block // source.batch
        some = _sample(source, (settings.training.steps - 1) // per_block)
        sample = on_devices(some, run.mesh, split=False)
        levels = calibrated(design, settings, state.params, constants, sample)
    last = log[-1] if log else {}
    told = {
        "model": run.model.name,
        "model_sha256": run.model.sha256,
        "texts": list(run.windows.names),
        "text_sha256": run.windows.sha256(),
        "text_tokens": int(run.windows.lengths.sum()),
        "seed": settings.training.seed,
        "settings": settings.values(),
        "first_position": {"ratio": float(facts.ratio), "skipped": int(facts.skipped)},
        "levels": levels.tolist(),
        "trained": {name: value for name, value in last.items() if name != "tokens_per_s"},
    }
    reads, writes = Units(*facts.reads), Units(*facts.writes)
    params = on_host(state.params)
    return finished(design, settings.activation, params, reads, writes, levels, told)
