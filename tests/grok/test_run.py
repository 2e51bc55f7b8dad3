"""`python -m grok.run`: what it prints and saves, and what it refuses without a traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from grok import run
from grok.runner import loading as runner
from lens.traces.trace import load_trace

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
TINY3 = ["--checkpoint", str(DATA / "tiny3"), "--dtype", "float32"]


@pytest.fixture(autouse=True)
def one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command on one device, as on a laptop; shares the compiled parts of other tests."""
    load = runner.load
    monkeypatch.setattr(runner, "load", lambda *args, **kw: load(*args, mesh=(1, 1), **kw))


def test_a_trace_is_printed_token_by_token_and_layer_by_layer(capsys, tiny3):
    assert run.main([*TINY3, "--tokens", "5,17,3"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    trace = tiny3.trace_routing([5, 17, 3])
    assert f"tiny3: 3 layers, 8 experts, top 2, float32, routers {tiny3.sha256[:12]}" in out
    assert "no tokenizer beside ckpt-0 and no --tokenizer" in out
    lines = out.splitlines()
    assert any(re.fullmatch(r"token +L0 +L1 +L2", line) for line in lines)
    for t, token in enumerate((5, 17, 3)):
        cells = [f"{a}-{b}" for a, b in trace.experts[:, t]]
        assert any(line.split() == [f"#{token}", *cells] for line in lines)
    first = f"'#{trace.candidates[-1, 0]}' {trace.candidate_probs[-1, 0]:.3f}"
    assert f"most probable next tokens: {first}, " in out
    assert "continuation" not in out


def test_a_continuation_is_printed_and_its_routing_saved(capsys, tmp_path, tiny3):
    file = tmp_path / "trace.npz"
    options = ["--max-new-tokens", "3", "--temperature", "0.9", "--top-p", "0.8", "--seed", "4"]
    assert run.main([*TINY3, "--tokens", "5,17,3", *options, "--trace", str(file)]) == 0
    out = capsys.readouterr().out
    wanted = tiny3.generate([5, 17, 3], max_new_tokens=3, temperature=0.9, top_p=0.8, seed=4)
    assert f"continuation: {wanted.text!r}" in out and f"saved {file}" in out
    assert sum("+" in line for line in out.splitlines()[1:]) == 3  # 2 tokens and the heading
    saved = load_trace(file)
    assert np.array_equal(saved.tokens, wanted.trace.tokens)
    assert np.array_equal(saved.experts, wanted.trace.experts)
    assert list(tmp_path.iterdir()) == [file]


def test_a_streamed_run_prints_the_resident_ones_table_and_tells_how_far_it_is(capsys):
    arguments = [*TINY3, "--tokens", "5,17,3,80,211"]
    assert run.main(arguments) == 0
    resident = capsys.readouterr().out
    assert run.main([*arguments, "--mode", "streamed", "--memory-budget", "4"]) == 0
    streamed, told = capsys.readouterr()
    assert streamed == resident
    assert re.search(r"layer 3/3, \d\.\d GB read, \d+ s", told)


def test_a_streamed_run_that_is_stopped_goes_on_with_the_same_command(
    capsys, tmp_path, monkeypatch
):
    kept = tmp_path / "kept"
    arguments = [*TINY3, "--tokens", "5,17,3,80,211", "--mode", "streamed", "--resume", str(kept)]

    def stop(progress):
        if progress.layer == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "_layers", stop)
        assert run.main(arguments) == 130
    out, err = capsys.readouterr()
    assert out == "" and "the same command goes on from the last finished layer" in err
    assert list(kept.rglob("*.state"))
    assert run.main(arguments) == 0
    assert "most probable next tokens" in capsys.readouterr().out
    assert not kept.exists() or not list(kept.rglob("*.state"))


def test_control_characters_of_pieces_cannot_reach_the_terminal(tiny3):
    trace = tiny3.trace_routing([5, 17])
    pieces = np.array(["\x1b[2J", "a\nb"])
    table = run._table(type(trace)(**{**vars(trace), "pieces": pieces}))
    assert "\x1b" not in table and "a\nb" not in table


REFUSED = {
    "no such folder": (["--checkpoint", "nowhere", "--tokens", "5"], "there is no such folder"),
    "no checkpoint": (["--checkpoint", ".", "--tokens", "5"], "holds no tensor files"),
    "text without a tokenizer": ([*TINY3, "--prompt", "text"], "no tokenizer.*--tokenizer FILE"),
    "no such tokenizer": (
        [*TINY3, "--prompt", "text", "--tokenizer", "nowhere.model"],
        "there is no such tokenizer file",
    ),
    "not numbers": ([*TINY3, "--tokens", "5,x"], "--tokens is '5,x'; expected numbers"),
    "an empty number": ([*TINY3, "--tokens", "5,,3"], "expected numbers such as 5,17,3"),
    "no tokens": ([*TINY3, "--tokens", ""], "expected numbers"),
    "an unknown id": ([*TINY3, "--tokens", "5,512"], "512 is outside the vocabulary, 0 to 511"),
    "a negative id": ([*TINY3, "--tokens=-5"], "-5 is outside"),
    "an endless id": ([*TINY3, "--tokens", "9" * 400], "whole numbers"),
    "too many tokens": ([*TINY3, "--tokens", ",".join("7" * 129)], "129 tokens.*holds 128"),
    "negative length": (
        [*TINY3, "--tokens", "5", "--max-new-tokens", "-1"],
        "--max-new-tokens is -1; expected 0 or more",
    ),
    "no room": ([*TINY3, "--tokens", "5", "--max-new-tokens", "128"], "room for 127 new ones"),
    "temperature": ([*TINY3, "--tokens", "5", "--temperature", "nan"], "temperature is nan"),
    "nucleus": ([*TINY3, "--tokens", "5", "--top-p", "0"], "top_p is 0.0"),
    "seed": ([*TINY3, "--tokens", "5", "--seed", "-1"], "seed is -1"),
    "no folder for the trace": (
        [*TINY3, "--tokens", "5", "--trace", "nowhere/trace.npz"],
        "--trace nowhere/trace.npz: that folder does not exist",
    ),
    "a budget of nothing": (
        [*TINY3, "--tokens", "5", "--memory-budget", "0"],
        "expected gigabytes",
    ),
    "a budget too small": (
        [*TINY3, "--tokens", "5", "--mode", "streamed", "--memory-budget", "0.1"],
        r"budget of 0\.10 GB is too small .* the smallest that works is",
    ),
    "a file to resume from": (
        [*TINY3, "--tokens", "5", "--mode", "streamed", "--resume", __file__],
        "is a file; expected a folder",
    ),
    "a folder as the trace": ([*TINY3, "--tokens", "5", "--trace", "."], "--trace .: is a folder"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unusable_input_is_refused_with_exit_code_2_and_nothing_written(
    name, capsys, tmp_path, monkeypatch
):
    arguments, says = REFUSED[name]
    monkeypatch.chdir(tmp_path)
    assert run.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("grok.run: ") and len(err.splitlines()) == 1
    assert re.search(says, err), err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--prompt", "text", "--tokens", "5"],
        ["--tokens", "5", "--dtype", "float16"],
        ["--tokens", "5", "--max-new-tokens", "many"],
    ],
)
def test_wrong_usage_is_explained_with_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        run.main(arguments)
    assert exit_.value.code == 2
    assert "usage: python -m grok.run" in capsys.readouterr().err


def test_the_command_refuses_before_it_reads_the_model(monkeypatch, tmp_path):
    monkeypatch.setattr(runner, "load", lambda *args, **kw: pytest.fail("loaded"))
    arguments = ["--tokens", "5", "--trace", str(tmp_path / "nowhere" / "trace.npz")]
    assert run.main([*TINY3, *arguments]) == 2
    assert run.main([*TINY3, "--tokens", "5", "--trace", str(tmp_path)]) == 2


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    return subprocess.run(
        [sys.executable, "-m", "grok.run", *arguments],
        cwd=ROOT,
        env={**environment, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_command_runs_as_a_program_of_its_own(tmp_path, tiny3):
    done = command(*TINY3, "--tokens", "5,17,3", "--trace", str(tmp_path / "trace.npz"))
    assert done.returncode == 0, done.stderr
    assert "3 layers, 8 experts, top 2" in done.stdout
    assert done.stderr == ""
    wanted = tiny3.trace_routing([5, 17, 3])
    assert np.array_equal(load_trace(tmp_path / "trace.npz").experts, wanted.experts)


def test_the_program_refuses_without_a_traceback():
    done = command("--checkpoint", "nowhere", "--tokens", "5")
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no such folder" in done.stderr and "Traceback" not in done.stderr
