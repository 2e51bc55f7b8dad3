"""What is kept on disk, while the disk is full, read-only, and well again.

Every place that writes stands in the table: it says in words that it could not, or does without;
what was there before is there as it was; nothing half is left; afterwards it writes again.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numba
import numpy as np
import pytest

from grok.checkpoints.grok1 import open_checkpoint, write_checkpoint
from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.dictionary import Dictionary, as_float32, param_shapes
from grok.dictionaries.kinds.files import load_dictionary, nested, save_dictionary
from grok.dictionaries.training.checkpoint import load_state, read_log, save_state, write_log
from grok.errors import GrokError
from grok.files import write_whole
from grok.runner.saved_values import load_saved, write_saved
from grok.streaming import kept_code
from grok.streaming.resume import Kept
from grok.trace import RoutingTrace
from lens.errors import LensError
from lens.many_prompts.run_events import ask
from lens.many_prompts.run_store import RunStore
from lens.many_prompts.shared_texts import SharedTexts
from lens.report.files import write_folder
from lens.routers.router_set import RouterSet, load_routers, save_routers
from lens.storage.disk_cache import DiskCache, content_key
from lens.storage.expert_notes import ExpertNote, NoteBook
from lens.storage.feature_notes import FeatureNote, FeatureNotes
from lens.traces.trace import load_trace
from pages.access.used import Used
from tests.faults.disks import SmallDisk, disk
from tests.fuzz.doors import ROUTERS, SMALL, TRACE
from tests.lens.many_prompts.run_making import OWNER, begin, finished, random_routing

__all__ = ["disk"]
ROUTING = random_routing(np.random.default_rng(0), [4, 3, 5, 2])
NOTE = ExpertNote("0" * 64, 2, 5, "L2·E5", name="endings")
ROUTER_SET = RouterSet(ROUTERS["routers"], ROUTERS["norm_scales"])
TRACED = RoutingTrace(
    **{
        name: TRACE[name]
        for name in TRACE
        if name not in ("format_version", "prompt_length", "model_sha256", "settings")
    },
    prompt_length=2,
    model_sha256="0" * 64,
)


FEW = Design("sae", (0,), ("resid_mid",), ("resid_mid",), 3, 2)
RULE = Activation("relu")
PARAMS = [
    as_float32(nested({name: np.full(shape, n) for name, shape in param_shapes(FEW, RULE).items()}))
    for n in range(4)
]


@dataclass(frozen=True)
class Place:
    """Something that is written.

    Attributes:
        write: writes it for the n-th time into a folder.
        read: what is kept there now.
        quiet: whether it goes on without, and says nothing.
    """

    write: Callable[[Path, int], object]
    read: Callable[[Path], object]
    quiet: bool = False


def _note(folder: Path, n: int) -> None:
    NoteBook(folder).keep(OWNER, replace(NOTE, layer=n))


def _of_feature(folder: Path, n: int) -> None:
    FeatureNotes(NoteBook(folder)).keep(OWNER, FeatureNote("0" * 64, n, 5, name="endings"))


def _run(folder: Path, n: int) -> None:
    finished(RunStore(folder), *ROUTING, ["a", "a", "b", "b"])


def _runs(folder: Path) -> list[int]:
    runs = RunStore(folder).runs_of(OWNER)
    assert all(run.status == "finished" for run in runs)
    count = "SELECT count(*) AS n FROM read_parquet($routing)"
    return [int(ask(run, count)["n"][0]) for run in runs]


def _begun(folder: Path, n: int) -> None:
    begin(RunStore(folder)).cancel()


def _counted(folder: Path) -> object:
    with closing(sqlite3.connect(Used(folder).file)) as base:
        return base.execute("SELECT sum(tokens) FROM used").fetchone()


def _training(folder: Path, n: int) -> None:
    write_log(folder, [{"step": n, "loss": 1.0}])
    save_state(folder, {"params": np.full(300, n)}, {"seed": 0})


def _trained(folder: Path) -> object:
    like = {"params": np.zeros(300, int)}
    return load_state(folder, like, {"seed": 0})["params"][0], read_log(folder, 9)


def _cached(folder: Path, n: int) -> None:
    DiskCache(folder).put("some", content_key(n), {"values": np.arange(n)})


def _loop(folder: Path, n: int) -> None:
    numba.config.CACHE_DIR = str(folder)

    def added(a, b):
        return a + b

    try:
        one = (int, float, complex)[n - 1](n)  # each compiled for itself
        assert kept_code.compiled()(added)(one, one) == 2 * n
    finally:
        numba.config.CACHE_DIR = ""


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _named(name: str, write: Callable[[Path], object]) -> Callable[[Path, int], object]:
    return lambda folder, n: write(folder / f"{name}{n}.npz")


def _each(open_one: Callable[[Path], object]) -> Callable[[Path], int]:
    """How many files there are, each of which can be opened."""

    def count(folder: Path) -> int:
        return len([open_one(file) for file in sorted(folder.glob("*.npz"))])

    return count


def _checkpoint(folder: Path, n: int) -> None:
    from grok.checkpoints.grok1 import expected_shape, tensor_paths

    tensors = {p: np.ones(expected_shape(SMALL, p), np.float32) for p in tensor_paths(2)}
    write_checkpoint(folder / f"model{n}", SMALL, tensors)


def _checkpoints(folder: Path) -> int:
    found = [open_checkpoint(one) for one in sorted(folder.glob("model*"))]
    assert not any(one.missing() for one in found)
    return len(found)


PLACES = {
    "a run, begun": Place(_begun, lambda folder: len(RunStore(folder).runs_of(OWNER))),
    "a shared text": Place(
        lambda folder, n: SharedTexts(folder).create(OWNER, "row", {"prompt": f"text {n}"}),
        lambda folder: [one.texts["prompt"] for one in SharedTexts(folder).of(OWNER)],
    ),
    "a note": Place(_note, lambda folder: [one.layer for one in NoteBook(folder).of(OWNER)]),
    "a note on a feature": Place(
        _of_feature,
        lambda folder: [one.group for one in FeatureNotes(NoteBook(folder)).of(OWNER)],
    ),
    "what a person has run": Place(
        lambda folder, n: Used(folder).charge(OWNER, n, a_minute=0, an_hour=100),
        _counted,
        quiet=True,
    ),
    "an entry of the cache": Place(
        _cached,
        lambda folder: [n for n in range(9) if DiskCache(folder).get("some", content_key(n))],
        quiet=True,
    ),
    "compiled code": Place(_loop, lambda folder: len(_files(folder)), quiet=True),
    "routers": Place(_named("r", lambda f: save_routers(ROUTER_SET, f)), _each(load_routers)),
    "a trace": Place(_named("t", TRACED.save), _each(load_trace)),
    "saved values": Place(
        _named("v", lambda f: write_saved(f, TRACED, [("embed", np.zeros((3, 2), np.float32))])),
        _each(load_saved),
    ),
    "the state of a pass": Place(
        lambda folder, n: Kept(folder, f"{n:032d}").save(
            0, [np.ones(3, "f4")], [np.ones((2, 2), "f4")]
        ),
        lambda folder: [n for n in range(9) if Kept(folder, f"{n:032d}").load()],
    ),
    "the state of a training run": Place(_training, _trained),
    "a dictionary of features": Place(
        lambda folder, n: save_dictionary(folder, Dictionary(FEW, RULE, PARAMS[n], {})),
        lambda folder: float(load_dictionary(folder).params["encoder_bias"].max()),
    ),
    "a report": Place(
        lambda folder, n: write_folder(
            folder / f"report{n}",
            [],
            {"settings": {}},
            lambda *_: "page" * 500,
            page_file="index.html",
            index_file="index.json",
            title="Report",
        ),
        lambda folder: [len((f / "index.html").read_text()) for f in folder.glob("report*")],
    ),
    "a checkpoint": Place(_checkpoint, _checkpoints),
}


@pytest.mark.parametrize("fault", ["full", "read_only"])
@pytest.mark.parametrize("name", PLACES)
def test_a_disk_that_takes_nothing_costs_nothing_that_is_there(
    name: str, fault: str, disk: SmallDisk
) -> None:
    place = PLACES[name]
    folder = disk.folder / f"{name} {fault}"
    folder.mkdir()
    place.write(folder, 1)
    before, files = place.read(folder), _files(folder)
    with getattr(disk, fault)():
        if place.quiet:
            place.write(folder, 2)
        else:
            with pytest.raises((LensError, GrokError)) as refused:
                place.write(folder, 2)
            assert str(refused.value).endswith(".") and "Traceback" not in str(refused.value)
        assert place.read(folder) == before
    assert place.read(folder) == before
    assert _files(folder) == files
    place.write(folder, 3)
    assert place.read(folder) != before
    shutil.rmtree(folder)


def test_a_run_that_cannot_note_its_end_is_stopped_and_goes_on_when_there_is_room(
    disk: SmallDisk,
) -> None:
    store = RunStore(disk.folder / "ending")
    writing = begin(store)
    writing.progress(3, 14)
    with disk.full():
        writing.run = replace(writing.run, problem="x" * 9000)  # more than the room of the old one
        writing.progress(9, 14)
        with pytest.raises(LensError, match="cannot be written .*what was run is kept"):
            writing.finish(model_sha256="0" * 64, n_tokens=14)
        run = store.get(writing.run.id)
        assert (run.status, run.tokens_done) == ("stopped", 3)
    store.resume(run.id, OWNER).finish(model_sha256="0" * 64, n_tokens=14)
    assert store.get(run.id).status == "finished"


def test_a_command_whose_output_has_no_room_leaves_the_old_one(disk: SmallDisk) -> None:
    file = disk.folder / "old"
    write_whole(file, b"whole")
    with disk.full(), pytest.raises(OSError):
        write_whole(file, os.urandom(2**20))
    assert file.read_bytes() == b"whole"
