"""Whole runs: where activations come from, what survives a kill, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grok.dictionaries import train as command
from grok.dictionaries.kinds.files import load_dictionary
from grok.dictionaries.training import run as runs
from grok.dictionaries.training.losses import routing_of
from grok.dictionaries.training.run import Run, train
from grok.dictionaries.training.settings import settings_of
from grok.dictionaries.training.source import (
    Computed,
    Stored,
    first_position_ratio,
    taken,
    windows_of,
)
from grok.dictionaries.training.windows import cut
from grok.errors import GrokError
from grok.experiments.collecting import collect
from grok.experiments.collection import load_collection
from grok.runner import loading
from tests.grok.conftest import DATA

ROOT = Path(__file__).resolve().parents[4]
CONFIG = """
[dictionary]
kind = "clt"
reads = ["router.input"]
writes = ["moe.normed"]
features = 32

[activation]
k = 4
pooled = true

[normalisation]
tokens = 256

[text]
context = 16
buffer = 4

[training]
tokens = {tokens}
batch = 64
save_every = 5
log_every = 3
dead_window = 500
"""
IDS = np.random.default_rng(0).integers(1, 300, 700).astype(np.int32)


def files(folder: Path, tokens: int = 64 * 23) -> list[str]:
    """The command's arguments for a small run."""
    (folder / "a.toml").write_text(CONFIG.format(tokens=tokens))
    np.save(folder / "ids.npy", IDS)
    model, text = str(DATA / "tiny3"), str(folder / "ids.npy")
    return [str(folder / "a.toml"), "--model", model, "--text", text]


def content(folder: Path) -> tuple[bytes, str]:
    return (folder / "dictionary.safetensors").read_bytes(), (
        folder / "dictionary.json"
    ).read_text()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert command.main([*files(folder), "--output", str(folder / "out")]) == 0
    return folder


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(uninterrupted, tmp_path):
    arguments = [*files(tmp_path), "--output", str(tmp_path / "out")]
    # One that waits after a checkpoint, so that the kill comes in the middle of its steps.
    script = (
        "import sys, time\n"
        "from grok.dictionaries import train\n"
        "from grok.dictionaries.training import run\n"
        "save = run.save_state\n"
        "def slow(folder, tree, identity):\n"
        "    save(folder, tree, identity)\n"
        "    if int(tree[0].step) == 10: print('saved', flush=True); time.sleep(600)\n"
        "run.save_state = slow\n"
        "train.main(sys.argv[1:])\n"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8"}
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process.stdout:
        assert any(line == "saved\n" for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert command.main([*arguments, "--resume"]) == 0
    assert content(tmp_path / "out") == content(uninterrupted / "out")


def test_what_is_saved_says_what_it_is(uninterrupted):
    import pyarrow.parquet as pq

    made = load_dictionary(uninterrupted / "out")
    facts = made.facts
    assert facts["texts"] == ["ids"] and facts["text_tokens"] == 679 and facts["seed"] == 0
    assert facts["settings"]["activation"]["k"] == 4 and len(facts["model_sha256"]) == 64
    assert facts["first_position"]["skipped"] in (0, 1)
    assert made.activation.function == "jumprelu" and len(facts["levels"]) == 3
    log = pq.read_table(uninterrupted / "out.run" / "log.parquet").to_pydict()
    assert log["step"] == [3, 6, 9, 12, 15, 18, 21, 23]
    assert {"loss", "ev", "l0", "dead", "tokens_per_s"} <= set(log)
    assert log["loss"][-1] < log["loss"][0]


def test_a_run_is_not_begun_over_another(uninterrupted, tmp_path, capsys):
    arguments = [*files(tmp_path), "--output", str(uninterrupted / "out")]
    assert command.main(arguments) == 2
    assert "is not empty" in capsys.readouterr().err
    (tmp_path / "out.run").mkdir()
    state = (uninterrupted / "out.run" / "state.npz").read_bytes()
    (tmp_path / "out.run" / "state.npz").write_bytes(state)
    arguments[-1] = str(tmp_path / "out")
    assert command.main(arguments) == 2
    assert "a run stands there" in capsys.readouterr().err
    assert command.main([*arguments, "--resume", "--seed", "1"]) == 2
    assert "begun with settings training: seed: 0, not 1" in capsys.readouterr().err
    (tmp_path / "out.run" / "state.npz").write_bytes(state[:-100])
    assert command.main([*arguments, "--resume"]) == 2
    assert "not a checkpoint" in capsys.readouterr().err


def test_a_full_disk_loses_nothing_that_is_finished(uninterrupted, tmp_path, capsys, monkeypatch):
    from grok.dictionaries.training import checkpoint

    arguments = [*files(tmp_path), "--output", str(tmp_path / "out")]
    whole, done = checkpoint.write_whole, []

    def full(path, given):
        done.append(path)
        if len(done) > 4:
            raise OSError(28, "No space left on device")
        whole(path, given)

    monkeypatch.setattr(checkpoint, "write_whole", full)
    assert command.main(arguments) == 2
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    assert command.main([*arguments, "--resume"]) == 0
    assert "from step 10 of 23" in capsys.readouterr().err
    assert content(tmp_path / "out") == content(uninterrupted / "out")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tensorboard", "tb"], "--tensorboard needs the package tensorboardX"),
        (["--wandb", "p"], "--wandb needs the package wandb"),
        (["--mesh", "1,3"], "32 features of a group do not divide among 3 devices"),
    ],
)
def test_what_cannot_be_is_said_before_a_model_is_opened(
    options, said, tmp_path, capsys, monkeypatch
):
    for name in ("tensorboardX", "wandb"):  # imported only where they are asked for
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(loading, "load", lambda *a, **k: pytest.fail("opened"))
    arguments = [*files(tmp_path), "--output", str(tmp_path / "out"), *options]
    assert command.main(arguments) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out.run").exists()


def test_windows_longer_than_the_model_reads_are_refused(tmp_path, capsys):
    arguments = [*files(tmp_path), "--output", str(tmp_path / "out")]
    file = tmp_path / "a.toml"
    file.write_text(file.read_text().replace("context = 16", "context = 999999"))
    assert command.main(arguments) == 2
    assert "context is 999,999; tiny3 reads 128 at most" in capsys.readouterr().err


# --- where activations come from --------------------------------------------------------

TEXTS = cut({"a": IDS[:70], "b": IDS[70:100]}, 16)


def settings(kind: str = "expert_transcoder"):
    own = {"kind": kind, "reads": ["router.input"], "writes": ["moe.normed"], "features": 16}
    return settings_of({"dictionary": own})


@pytest.fixture(scope="module")
def some():
    rng = np.random.default_rng(2)
    window = rng.integers(0, len(TEXTS.tokens), 40)
    return window, rng.integers(0, TEXTS.lengths[window])


def test_values_are_those_of_a_trace_of_their_window(tiny3, some):
    design = settings().dictionary.design(tiny3.config)
    window, position = some
    found = taken(design, Computed(tiny3, TEXTS, batch_tokens=64), window, position)
    for one in np.unique(window):
        with tiny3.trace(TEXTS.tokens[one]) as t:
            layer = t.layers[1]
            read, written = layer.router.input.save(), layer.moe.normed.save()
            experts = layer.router.experts.save()
        rows = window == one
        at = position[rows]
        np.testing.assert_allclose(found.x[1, rows], read.value[at], atol=3e-5)
        np.testing.assert_allclose(found.y[1, rows], written.value[at], atol=3e-5)
        np.testing.assert_array_equal(found.chosen[1, rows], experts.value[at])


def test_a_collection_and_a_streamed_model_give_the_same(tiny3, some, tmp_path):
    design = settings().dictionary.design(tiny3.config)
    own = Computed(tiny3, TEXTS)
    points = (*design.sources, *design.targets)
    sites = [*map(str, points), *(f"layers[{i}].router.experts" for i in range(3))]
    labels = [TEXTS.names[i] for i in TEXTS.labels]
    collect(tiny3, TEXTS.tokens, tmp_path, labels=labels, sites=sites)
    collection = load_collection(tmp_path)
    windows = windows_of(collection, tiny3.sha256)
    assert windows.names == TEXTS.names and windows.sha256() == TEXTS.sha256()
    with pytest.raises(GrokError, match="collected from another model"):
        windows_of(collection, "0" * 64)
    stored = Stored(collection, np.concatenate([[0], np.cumsum(windows.lengths)]))
    streamed = loading.load(DATA / "tiny3", dtype="float32", mode="streamed")
    passes = []
    run = streamed.engine.run
    streamed.engine.run = lambda batches: passes.append(len(batches)) or run(batches)
    whole = taken(design, own, *some)
    for values in (stored, Computed(streamed, TEXTS, batch_tokens=32)):
        for a, b in zip(whole, taken(design, values, *some), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)
    assert passes == [max(passes)] and passes[0] > 1  # several batches, one pass over the weights


def test_an_sae_learns_from_the_values_that_it_reads(tiny3, tmp_path):
    own = {"kind": "sae", "reads": ["resid_mid"], "features": 16, "layers": [1]}
    small = {"tokens": 128, "batch": 64}
    some = settings_of({"dictionary": own, "training": small, "text": {"buffer": 2},
                        "activation": {"k": 2}})  # fmt: skip
    made = train(Run(some, tiny3, TEXTS, tmp_path / "out"))
    made.check_model(tiny3.sha256, tiny3.config.d_model, 3, tiny3.name)
    source = Run(some, tiny3, TEXTS, tmp_path / "out").source(0)
    assert source.block(0).y is source.block(0).x


def test_first_positions_that_stand_out_are_left_out(tiny3, tmp_path, monkeypatch):
    class Lifted(Computed):
        def of(self, windows, points):
            for window, own in super().of(windows, points):
                own = {point: value.copy() for point, value in own.items()}
                for value in own.values():
                    value[0] *= 20
                yield window, own

    design = settings("transcoder").dictionary.design(tiny3.config)
    plain = first_position_ratio(design, Computed(tiny3, TEXTS), TEXTS)
    assert first_position_ratio(design, Lifted(tiny3, TEXTS), TEXTS) > 15 * plain
    monkeypatch.setattr(runs, "Computed", Lifted)
    whole = settings("transcoder")
    short = replace(whole, training=replace(whole.training, batch=16, tokens=64))
    for rule, skipped in (("measured", 1), ("keep", 0)):
        text = replace(short.text, buffer=1, first_tokens=rule)
        run = Run(replace(short, text=text), tiny3, TEXTS, tmp_path)
        facts = run.measured()
        assert int(facts.skipped) == skipped
        assert run.source(skipped).order.places(0).position.min() == skipped


@pytest.mark.repeats
def test_the_routing_term_is_the_error_that_routers_see(tiny3, tmp_path):
    own = {"kind": "sae", "reads": ["resid_mid"], "features": 16}
    parts = {"training": {"tokens": 128, "batch": 64}, "text": {"buffer": 2},
             "normalisation": {"reads": "scalar", "writes": "scalar"}}  # fmt: skip
    some = settings_of({"dictionary": own, "loss": {"routing": 0.5}, **parts})
    run = Run(some, tiny3, TEXTS, tmp_path / "out")
    facts = run.measured()
    with tiny3.trace(TEXTS.tokens[0]) as t:
        layer = t.layers[1]
        h, z = layer.resid_mid.save(), layer.router.logits.save()
    seen = h.value / np.sqrt(np.square(h.value).mean(1, keepdims=True)) @ facts.routers[1]
    canonical = z.value - z.value.mean(1, keepdims=True)
    ratio = (seen * canonical).sum() / np.square(canonical).sum()  # the spread's own units
    np.testing.assert_allclose(seen, ratio * canonical, atol=0.02 * np.abs(seen).max())
    # An error of the size of the stream's own spread costs 1.
    block = run.source(0).block(0)
    off = np.asarray(block.x) - np.asarray(block.x).mean(1, keepdims=True)
    scale = facts.writes[1][:, None]
    held = runs.constants_of(
        runs.Units(*facts.reads),
        runs.Units(*facts.writes),
        facts.routers / facts.writes[1][..., None],
    ).held
    assert float(routing_of(off * scale, held)) == pytest.approx(1, rel=0.2)
    made = train(run)
    assert made.facts["settings"]["loss"]["routing"] == 0.5
    rerun = Run(replace(some, loss=replace(some.loss, routing=0.0)), tiny3, TEXTS, tmp_path / "b")
    assert not np.array_equal(train(rerun).params["encoder"][0], made.params["encoder"][0])
