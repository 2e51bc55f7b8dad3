"""The command that fetches routers, as processes: killed, resumed, and without the network."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.hub.server import COMMIT, REPOSITORY, HubServer
from lens.extract.grok1 import extract_routers
from lens.routers.router_set import load_routers
from tests.hub_files import DATA

ROOT = Path(__file__).resolve().parents[4]

# A shell's background jobs ignore an interrupt, and hand that on to what they start.
COMMAND = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("lens.extract", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def command(hub: HubServer, tmp_path):
    """Starts the command with a cache of its own."""

    def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        own = {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), **environment}
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, "--hub", REPOSITORY, *arguments],
            cwd=tmp_path,
            env={**os.environ, **own},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_is_ended_keeps_what_it_fetched_and_the_next_goes_on(
    hub: HubServer, command, tmp_path, how: signal.Signals
):
    hub.first = 1 + 8  # config.json and eight files come, the next eight are on their way
    first = command("--output", "routers.npz")
    deadline = time.monotonic() + 300
    while hub.asked["GET file"] < 1 + 2 * 8 and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(how)
    code, _, err = ended(first)
    assert code == (-9 if how == signal.SIGKILL else 130), err
    assert not list(tmp_path.glob("*.npz*"))
    if how == signal.SIGINT:
        assert "Interrupted; nothing was written" in err and "Traceback" not in err
    begun = hub.asked["GET file"]
    hub.first = None
    code, out, err = ended(command("--output", "routers.npz"))
    assert code == 0, err
    assert f"commit {COMMIT}" in out
    assert hub.asked["GET file"] - begun <= 24 - 8  # none that was whole is asked for again
    found = load_routers(tmp_path / "routers.npz")
    assert found.sha256 == extract_routers(DATA / "tiny12").sha256


def test_without_the_network_the_cache_of_an_earlier_run_is_read(hub: HubServer, command, tmp_path):
    code, _, err = ended(command("--output", "a.npz"))
    assert code == 0, err
    asked = dict(hub.asked)
    code, out, err = ended(command("--output", "b.npz", HF_HUB_OFFLINE="1"))
    assert code == 0, err
    assert dict(hub.asked) == asked and COMMIT in out
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    code, _, err = ended(command("--output", "c.npz", "--revision", "other", HF_HUB_OFFLINE="1"))
    assert code == 2 and "HF_HUB_OFFLINE" in err and not (tmp_path / "c.npz").exists()


def test_a_token_is_never_shown(hub: HubServer, command):
    hub.token = "hf_right"
    code, out, err = ended(command("--output", "a.npz", HF_TOKEN="hf_wrong_secret"))
    assert code == 2 and "HF_TOKEN" in err
    assert "hf_wrong_secret" not in out + err
    assert "Bearer hf_wrong_secret" in hub.tokens and hub.asked["refused"] >= 1
