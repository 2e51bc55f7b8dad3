"""Graphs of choices and tests of their nodes, run on the model that made a trace.

Both are of somebody's text, so they live in the session alone, the last few of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import streamlit as st

from grok.cached import shared_dictionary
from grok.checkpoints.model_files import folder_identity
from grok.errors import GrokError
from grok.serving.shared_model import SharedModel
from grok.units import duration, size
from lens.traces import RoutedText
from lens.words import counted
from pages.access import limits
from pages.live.running import prompt_form
from pages.live.running.controls import teller
from pages.live.session import dictionaries
from pages.live.session.shared_models import ModelChoice, OnLoad, OnWait
from pages.shell.session_keys import SessionKey, SessionValue

if TYPE_CHECKING:
    from grok.dictionaries.attribution import (
        LayerClaims,
        NodeCheck,
        PromptFeatures,
        RouteGraph,
        Target,
    )

Result = TypeVar("Result")
Progress = Callable[[int, int], None]
DTYPE = "float32"  # in which rows sum exactly
CONTROLS = 8  # random directions
MOST_GRAPHS, MOST_CHECKS, MOST_CLAIMS = 4, 64, 8
PASSES = 3  # of the text through the model, that a graph counts as


@dataclass(frozen=True, eq=False)
class Cell:
    """One token in one layer of a trace.

    Attributes:
        trace: of a text.
        key: hash of the trace.
        token: its place.
        row: of the layer in the trace; number: the model's own.
        choice: the model that runs prompts here, if any.
    """

    trace: RoutedText
    key: str
    token: int
    row: int
    number: int
    choice: ModelChoice


@dataclass(frozen=True, eq=False)
class Traced:
    """A graph, and the text as the dictionary reads it."""

    read: PromptFeatures
    graph: RouteGraph
    target: Target


@dataclass
class Pins:
    """What somebody pinned and grouped in a circuit: keys, and keys by a group's name."""

    pinned: set[str] = field(default_factory=set)
    groups: dict[str, list[str]] = field(default_factory=dict)


PINS = SessionValue[dict[str, Pins]](SessionKey.CIRCUIT_PINS)
GRAPHS = SessionValue[dict[str, Traced]](SessionKey.CIRCUITS)
CHECKS = SessionValue[dict[tuple[str, ...], "NodeCheck"]](SessionKey.CIRCUIT_CHECKS)
CLAIMS = SessionValue[dict[str, "LayerClaims"]](SessionKey.CIRCUIT_CLAIMS)


def key_of(cell: Cell, folder: Path, expert: int, other: int | None) -> str:
    """What a graph depends on."""
    place = f"{cell.number} {cell.token} {expert} {other}"
    return f"{cell.key} {folder_identity(folder)} {place}"


def cost(cell: Cell, folder: Path) -> str:
    """What a graph takes here, in a sentence.

    Raises:
        GrokError: the model does not fit into the memory a second time.
    """
    from grok.dictionaries.attribution import expected_plan
    from grok.planning import machine, modes

    plan = expected_plan(cell.choice.config, shared_dictionary(str(folder)), len(cell.trace.tokens))
    words = (
        f"One run of the text, then {counted(plan.rows - 1, 'feature')} looked into: about "
        f"{size(plan.bytes)} and {duration(plan.seconds)}."
    )
    if str(cell.trace.settings.get("dtype", "bfloat16")) == DTYPE:
        return words
    plans = modes.plan(
        cell.choice.architecture, machine.unmeasured(), n_tokens=len(cell.trace.tokens)
    )
    resident = next(one for one in plans if one.mode == "resident")
    if not resident.fits:
        raise GrokError(
            f"A circuit needs the model in {DTYPE}, which would be held beside the one that is in "
            f"use: {size(resident.memory_bytes)} more than there is room for. Run the text with "
            f"numbers in {DTYPE}, and open its circuit."
        )
    return (
        f"{words} Sums are exact in {DTYPE} alone, so the model is held in it too: "
        f"{size(resident.memory_bytes)} at most."
    )


def traced(cell: Cell, folder: Path, expert: int, other: int | None) -> Traced | None:
    """Makes the graph of a choice and keeps it; None after an error was shown."""
    from grok.dictionaries.attribution import Target, read_features, route_graph

    kept, key = GRAPHS.kept(dict), key_of(cell, folder, expert, other)
    target = Target("router", cell.token, expert, other, cell.number)

    def run(model: SharedModel, on_wait: OnWait, tell: Progress) -> Traced:
        with model.turn(on_wait):
            read = _read_before(cell, folder) or read_features(
                model.model, shared_dictionary(str(folder)), cell.trace.tokens
            )
            return Traced(read, route_graph(model.model, read, target, progress=tell), target)

    found = _guarded(cell, PASSES, "Reading the text, then going down the layers", run)
    if found is not None:
        dictionaries.put(kept, key, found, MOST_GRAPHS)
    return found


def claims_key(cell: Cell, folders: Mapping[str, Path], target: Target) -> str:
    """What claims about the layers of a choice depend on."""
    every = " ".join(folder_identity(folder) for folder in folders.values())
    return f"{key_of(cell, next(iter(folders.values())), target.index, target.other)} {every}"


def claims_cost(cell: Cell, folders: Mapping[str, Path], below: int) -> str:
    """What the claims of dictionaries about layers take here, in a sentence."""
    from grok.dictionaries.attribution import expected_plan

    n = len(cell.trace.tokens)
    plans = [
        expected_plan(cell.choice.config, shared_dictionary(str(folder)), n)
        for folder in folders.values()
    ]
    return (
        f"{counted(len(plans), 'graph')}, one after the other (about "
        f"{size(max(plan.bytes for plan in plans))} and "
        f"{duration(sum(plan.seconds for plan in plans))}), then {2 * below} runs of the text, two "
        "without each layer's experts."
    )


def claimed(
    cell: Cell, folders: Mapping[str, Path], target: Target, below: int
) -> LayerClaims | None:
    """Runs the model without each layer's experts beside what dictionaries claim of them.

    Args:
        cell: of the choice.
        folders: of the dictionaries by their names.
        target: the choice.
        below: layers with experts below it.

    Returns:
        What was found, which is kept; None after an error was shown.
    """
    from grok.dictionaries.attribution import layer_claims, read_features

    def run(model: SharedModel, on_wait: OnWait, tell: Progress) -> LayerClaims:
        with model.turn(on_wait):
            reads = {
                name: _read_before(cell, folder)
                or read_features(model.model, shared_dictionary(str(folder)), cell.trace.tokens)
                for name, folder in folders.items()
            }
            return layer_claims(model.model, reads, target, progress=tell)

    passes = PASSES * len(folders) + 2 * below
    found = _guarded(cell, passes, "Running the model without each layer's experts", run)
    if found is not None:
        kept = CLAIMS.kept(dict)
        dictionaries.put(kept, claims_key(cell, folders, target), found, MOST_CLAIMS)
    return found


def _read_before(cell: Cell, folder: Path) -> PromptFeatures | None:
    """The text as this dictionary reads it, where another choice of it was traced."""
    start = f"{cell.key} {folder_identity(folder)} "
    same = (one.read for key, one in GRAPHS.kept(dict).items() if key.startswith(start))
    return next(same, None)


def checked(
    cell: Cell, key: tuple[str, ...], known: Traced, nodes: Sequence[int], target: Target
) -> NodeCheck | None:
    """Runs the model without some nodes of a graph; None after an error was shown."""
    from grok.dictionaries.attribution import Node, check_nodes

    given = [Node.of(known.graph, i) for i in nodes]

    def run(model: SharedModel, on_wait: OnWait, tell: Progress) -> NodeCheck:
        with model.turn(on_wait):
            return check_nodes(
                model.model, known.read, given, target, random=CONTROLS, progress=tell
            )

    found = _guarded(cell, 3 * (1 + CONTROLS), "Running the model without it", run)
    if found is not None:
        dictionaries.put(CHECKS.kept(dict), key, found, MOST_CHECKS)
    return found


def _guarded(
    cell: Cell, passes: int, text: str, run: Callable[[SharedModel, OnWait, Progress], Result]
) -> Result | None:
    """A run with its progress and a way to stop it; None after an error was shown."""
    slot = st.empty()

    def begin(on_wait: OnWait, on_load: OnLoad) -> Result:
        model = dictionaries.model_of(cell.trace, cell.choice, DTYPE, on_load)
        limits.charge(cell.choice.person, passes * len(cell.trace.tokens))
        with slot.container(border=True):
            bar = st.progress(0.0, "Running …")
            st.button("Cancel", key="cancel_circuit")  # any click ends this run
        return run(model, on_wait, teller(bar))

    found = prompt_form.run_guarded(begin, text)
    slot.empty()
    return found
