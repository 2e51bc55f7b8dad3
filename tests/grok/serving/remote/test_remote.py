"""A model in a process of its own: the same numbers, for those who may, and no end to it by a kill.

One server for all of these tests; it starts again when its process is killed.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as parquet
import pytest
from jsonschema import Draft202012Validator

from grok import serve
from grok.errors import BusyError, GrokError, InterventionError, PromptError
from grok.experiments.metrics import logit_difference
from grok.interventions.edits import ban, edit
from grok.serving.jobs import CancelledError
from grok.serving.remote.bodies import document
from grok.serving.remote.calls import CALLS
from grok.serving.remote.client import RemoteModel
from grok.serving.shared_model import SharedModel
from tests.pages.conftest import bundled_data, open_page, served_before

__all__ = ["bundled_data", "open_page", "served_before"]
ROOT = Path(__file__).resolve().parents[4]
TOKEN = "a token of the tests, long enough"
SOON = 240.0
SECRET = "SQUEAMISH OSSIFRAGE"
PROMPT = [5, 17, 3, 42]


class Server(NamedTuple):
    """A server: its address, its supervisor's process, its log."""

    port: int
    process: subprocess.Popen
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def worker(self) -> int | None:
        """The process that holds the model."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(children[0]) if children else None

    def kill_worker(self) -> None:
        os.kill(self.worker(), signal.SIGKILL)

    def ask(
        self, path: str, body: bytes | None = None, token: str | None = TOKEN, **headers: str
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SOON)
        known = {"Content-Type": "application/json"}
        if token is not None:
            known["Authorization"] = f"Bearer {token}"
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request("GET" if body is None else "POST", path, body, known | given)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def figure(self, name: str) -> float:
        lines = self.ask("/metrics")[1].decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def idle(self) -> bool:
        names = ("grok_lens_model_calls_now ", "grok_lens_queue_callers ")
        return not any(self.figure(name) for name in names)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    arguments = ["--checkpoint", str(ROOT / "tests/data/tiny3"), "--no-warm"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GROK_LENS_")}
    environment |= {"GROK_LENS_MODEL_TOKEN": TOKEN, "GROK_LENS_LOG": "json"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "grok.serve", "--port", "0", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    until(lambda: b"http://" in log.read_bytes() or process.poll() is not None)
    assert process.poll() is None, log.read_text()
    port = int(log.read_text().split("http://127.0.0.1:")[1].split()[0])
    found = Server(port, process, log)
    until(lambda: found.ask("/readyz", token=None)[0] == 200)
    worker = found.worker()
    try:
        yield found
        worker = found.worker()
    finally:
        process.kill()  # not asked: the model's process sees that nobody watches over it
        process.wait(SOON)
    until(lambda: not Path(f"/proc/{worker}").exists() or is_zombie(worker))
    said = log.read_text()
    assert SECRET not in said and "Traceback" not in said
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    ends = [line for line in lines if line.get("message") == "call"]
    assert {line["call"] for line in ends} == set(CALLS)
    assert all(line["request"] and line["seconds"] >= 0 for line in ends)


@pytest.fixture(scope="module")
def remote(server: Server) -> RemoteModel:
    return RemoteModel(server.url, TOKEN, dtype="float32")


def is_zombie(pid: int | None) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def close(got: object, wanted: object) -> None:
    """Two results hold the same: whole numbers and texts exactly, others but for rounding."""
    assert type(got) is type(wanted)
    for name in wanted.__dataclass_fields__:  # type: ignore[attr-defined]
        a, b = getattr(got, name), getattr(wanted, name)
        if hasattr(b, "__dataclass_fields__"):
            close(a, b)
        elif isinstance(b, np.ndarray) and b.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=name)
        elif isinstance(b, float):
            assert a == pytest.approx(b, rel=1e-4, abs=1e-5), name
        else:
            assert np.array_equal(a, b), name


def test_every_call_gives_what_the_model_gives_in_its_own_process(remote, tiny3, tmp_path):
    own = SharedModel(tiny3)
    change = edit("router.logits", ban(1), layers=1)
    assert (remote.sha256, remote.dtype, remote.name) == (own.sha256, own.dtype, own.name)
    assert remote.config.d_ff == own.config.d_ff and not remote.streamed
    assert remote.encode(PROMPT).tolist() == PROMPT
    assert (remote.pieces(PROMPT), remote.text(PROMPT)) == (own.pieces(PROMPT), own.text(PROMPT))
    planned = [(m.plan(64).mode, m.plan(64).memory_bytes) for m in (remote, own)]
    assert planned[0] == planned[1] and planned[0][1] > 0
    close(remote.trace(PROMPT, candidates=3), own.trace(PROMPT, candidates=3))
    close(remote.trace(PROMPT, edits=change), own.trace(PROMPT, edits=change))
    for got, wanted in zip(*(m.trace_all([PROMPT, [9] * 20]) for m in (remote, own)), strict=True):
        close(got, wanted)
    close(remote.what_if(PROMPT, change), own.what_if(PROMPT, change))
    close(remote.logit_lens(PROMPT), own.logit_lens(PROMPT))
    told: list[tuple[int, int]] = []
    sweeps = [
        m.ablation_sweep(PROMPT, layers=1, progress=lambda *done: told.append(done))
        for m in (remote, own)
    ]
    close(*sweeps)
    assert told and told[-1][0] == told[-1][1]
    options = {"metric": logit_difference(5, 9), "sites": "resid_pre", "layers": [0, 2]}
    pairs = [m.patch_sweep(PROMPT, [5, 18, 3, 42], **options) for m in (remote, own)]
    close(*pairs)
    drawn = {"max_new_tokens": 4, "temperature": 0.8, "seed": 3, "edits": change}
    generated = [m.generate(PROMPT, **drawn) for m in (remote, own)]
    close(*generated)
    folders = [tmp_path / name for name in ("remote", "own")]
    prompts = [PROMPT, [9] * 20, [7, 8], PROMPT]
    for m, folder in zip((remote, own), folders, strict=True):
        m.collect_prompts(prompts, folder, check=lambda: None, labels=["a", "b", "a", "b"])
    tables = [(folder / "routing" / "part-00000.parquet") for folder in folders]
    files = [sorted(p.name for p in folder.rglob("*") if p.is_file()) for folder in folders]
    assert files[0] == files[1] and files[0]
    assert all(table.exists() for table in tables) or len(files[0]) > 1


def test_thirty_people_at_once_get_each_their_own(remote, tiny3):
    rng = np.random.default_rng(1)
    prompts = [rng.integers(1, 512, 3 + i % 20).tolist() for i in range(60)]
    found: dict[int, object] = {}

    def person(which: int) -> None:
        mine = remote.of(f"person-{which}")
        for number in range(which, len(prompts), 30):
            found[number] = mine.trace(prompts[number])

    threads = [threading.Thread(target=person, args=(which,)) for which in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    for number, prompt in enumerate(prompts):
        close(found[number], tiny3.trace_routing(prompt))


def test_the_document_is_of_what_checks_the_bodies(server):
    status, text = server.ask("/openapi.json", token=None)
    found = json.loads(text)
    assert status == 200 and found == json.loads(json.dumps(document(CALLS)))
    for name, call in CALLS.items():
        content = found["paths"][f"/v1/{name}"]["post"]["requestBody"]["content"]
        schema = content["application/json"]["schema"]
        Draft202012Validator.check_schema(schema)
        assert schema["properties"] == json.loads(json.dumps(call.properties))
        assert set(schema["required"]) <= set(schema["properties"])


def test_a_trace_can_be_had_as_the_file_alone(server, tmp_path):
    from lens.traces import load_trace

    body = json.dumps({"prompt": PROMPT}).encode()
    status, data = server.ask("/v1/trace", body, Accept="application/x-npz")
    (tmp_path / "a.npz").write_bytes(data)
    assert status == 200 and load_trace(tmp_path / "a.npz").tokens.tolist() == PROMPT


LONG_BODY = b'{"prompt": "' + b"a" * 2**22 + b'"}'
REFUSED = {
    "no token": (b"{}", {"token": None}, 401, "Authorization"),
    "another token": (b"{}", {"token": TOKEN + "x"}, 401, "Authorization"),
    "a long body": (LONG_BODY, {}, 413, "body"),
    "a form": (b"a=1", {"Content_Type": "application/x-www-form-urlencoded"}, 415, "Content-Type"),
    "no JSON": (SECRET.encode(), {}, 400, "body"),
    "no object": (b"[]", {}, 400, "body"),
    "a number without end": (b"9" * 4000, {}, 400, "body"),
    "levels without end": (b"[" * 200_000, {}, 400, "body"),
    "no prompt": (b"{}", {}, 400, "body"),
    "a wrong type": (b'{"prompt": 3}', {}, 400, "body.prompt"),
    "what is not known": (
        f'{{"prompt": [5], "{SECRET}": 1}}'.encode(),
        {},
        400,
        "body",
    ),
    "too many candidates": (b'{"prompt": [5], "candidates": 9999}', {}, 400, "body.candidates"),
    "an unusable prompt": (f'{{"prompt": "{SECRET}"}}'.encode(), {}, 400, "POST /v1/trace"),
    "an unusable change": (
        b'{"prompt": [5], "edits": [{"site": "router.logits", "kind": "exec"}]}',
        {},
        400,
        "POST /v1/trace",
    ),
    "a length to fill rows up to": (b'{"rows": [[5]], "length": 65536}', {}, 400, "body"),
    "more rows than memory is for": (
        json.dumps({"rows": [[5] * 257] * 200}).encode(),
        {},
        400,
        "body.rows",
    ),
    "a strange person": (b'{"prompt": [5]}', {"X_Grok_Lens_Person": "a b"}, 400, "person"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_said_in_four_parts(server, case):
    body, options, wanted, where = REFUSED[case]
    call = "forward" if b"rows" in body else "trace"
    status, text = server.ask(f"/v1/{call}", body, **options)
    error = json.loads(text)["error"]
    assert status == wanted and where in error["where"]
    assert all(error[name] for name in ("message", "found", "expected", "do", "request"))
    assert SECRET not in text.decode()


def test_errors_arrive_as_what_they_were(server, remote):
    with pytest.raises(PromptError, match="empty"):
        remote.trace([])
    assert not remote.has_chat_template
    with pytest.raises(PromptError, match="has no chat template; expected"):
        remote.chat_prompt("Hello")
    with pytest.raises(InterventionError, match="cannot be sent"):
        remote.what_if(PROMPT, edit("moe.output", lambda value: value))
    with pytest.raises(GrokError, match="token that the server was started with"):
        RemoteModel(server.url, TOKEN + "x")
    with pytest.raises(GrokError, match="expected one such as"):
        RemoteModel("file:///etc/passwd")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with pytest.raises(BusyError, match="cannot be reached"):
            RemoteModel(f"http://127.0.0.1:{nobody.getsockname()[1]}", TOKEN)


def test_the_documents_program_runs(server, monkeypatch, capsys):
    text = (ROOT / "docs/serving.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    code = code.replace("http://127.0.0.1:8700", server.url)
    code = re.sub(r'prompt = ".*"', f"prompt = {PROMPT}", code)  # this model has no tokenizer
    monkeypatch.setenv("GROK_LENS_MODEL_TOKEN", TOKEN)
    exec(compile(code, "docs/serving.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 7


def test_the_live_page_runs_prompts_there(server, open_page, monkeypatch):
    from grok import cached

    monkeypatch.setenv("GROK_LENS_MODEL_URL", server.url)
    monkeypatch.setenv("GROK_LENS_MODEL_TOKEN", TOKEN)
    monkeypatch.setattr(cached, "shared_model", None)  # no model is loaded here
    before = server.figure("grok_lens_model_calls_total")
    app = open_page("live_routing")
    app.text_area(key="prompt").set_value("5, 17, 3")
    next(button for button in app.button if button.label == "Run").click().run()
    assert not app.exception and not [error.value for error in app.error]
    trace = app.session_state["traces"]["first"]
    assert trace.settings["dtype"] == "bfloat16"
    close(trace, RemoteModel(server.url, TOKEN).trace([5, 17, 3]))
    assert server.figure("grok_lens_model_calls_total") > before + 1
    with monkeypatch.context() as streamed:
        streamed.setattr(cached.remote_model(server.url), "streamed", True)
        told = [one.value for one in app.run().markdown]
    assert any("streams it from disk" in one and "A prompt of 64 tokens" in one for one in told)
    server.kill_worker()
    app.text_area(key="prompt").set_value("9, 8, 7")
    next(button for button in app.button if button.label == "Run").click().run()
    assert not app.exception and not [error.value for error in app.error]
    assert app.session_state["traces"]["first"].tokens.tolist() == [9, 8, 7]


CLIENT = """
import http.client, json, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
body = json.dumps({"prompt": [5, 17], "max_new_tokens": 120})
headers = {"Content-Type": "application/json", "Authorization": "Bearer " + sys.argv[2]}
connection.request("POST", "/v1/stream", body, headers)
answer = connection.getresponse()
print(answer.readline()[:20], flush=True)
sys.stdin.read()
"""


def test_a_client_that_is_killed_in_mid_stream_frees_its_turn(server, remote):
    until(server.idle)
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, str(server.port), TOKEN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as client:
        assert client.stdout.readline()
        client.kill()
    until(server.idle)
    assert remote.trace(PROMPT).tokens.tolist() == PROMPT


def test_who_is_told_may_end_the_run(server, remote):
    def stop(done: int, total: int) -> None:
        raise CancelledError("enough")

    with pytest.raises(CancelledError, match="enough"):
        remote.ablation_sweep(PROMPT, progress=stop)
    steps = remote.stream(PROMPT, max_new_tokens=100)
    next(steps)
    steps.close()
    until(server.idle)


def test_a_model_that_is_killed_comes_back_and_who_waited_is_served(server, remote, tiny3):
    wanted = tiny3.generate(PROMPT, max_new_tokens=40).new_tokens
    first = server.worker()
    got, others = [], []

    def ask() -> None:
        others.append(remote.of("other").trace(PROMPT))

    for step in remote.stream(PROMPT, max_new_tokens=40):
        got.append(step.token)
        if len(got) == 3:
            server.kill_worker()
            others.append(threading.Thread(target=ask))
            others[0].start()
    assert got == wanted
    others[0].join(SOON)
    close(others[1], tiny3.trace_routing(PROMPT))
    assert server.worker() != first
    assert "is started again in" in server.log.read_text()


def test_a_run_of_many_prompts_goes_on_when_the_model_is_killed_in_its_middle(
    server, remote, tiny3, tmp_path
):
    prompts = [[5 + i] * length for i, length in enumerate((3, 20, 40, 5))]
    first, killed = server.worker(), []

    def kill(done: int, total: int) -> None:
        if 0 < done < total and not killed:
            killed.append(done)
            server.kill_worker()

    options = {"check": lambda: None, "labels": ["a", "b", "a", "b"]}
    found = remote.collect_prompts(prompts, tmp_path / "remote", progress=kill, **options)
    own = SharedModel(tiny3).collect_prompts(prompts, tmp_path / "own", **options)
    assert killed and server.worker() != first
    assert found.finished and found.manifest == own.manifest
    for one, other in zip(found.routing_files, own.routing_files, strict=True):
        got, wanted = (parquet.read_table(file).to_pydict() for file in (one, other))
        assert got["expert"] == wanted["expert"] and got["prompt"] == wanted["prompt"]


def test_a_model_that_keeps_dying_is_told_to_who_asked(server, remote):
    def kill(done: int, total: int) -> None:
        server.kill_worker()
        until(lambda: server.worker() is not None)

    with pytest.raises(BusyError, match="was restarted while this ran. Send it again") as busy:
        remote.ablation_sweep(PROMPT, progress=kill)
    assert busy.value.retry_after
    until(lambda: server.ask("/readyz", token=None)[0] == 200)
    assert remote.trace(PROMPT).tokens.tolist() == PROMPT


@pytest.mark.parametrize(
    ("arguments", "token", "said"),
    [
        (["--host", "0.0.0.0"], None, "GROK_LENS_MODEL_TOKEN is not set"),
        (["--host", "example.org"], None, "GROK_LENS_MODEL_TOKEN is not set"),
        ([], "short", "has 5 characters; expected 16 or more"),
        (["--port", "99999"], None, "nothing can listen there"),
    ],
)
def test_a_server_that_would_be_open_to_others_does_not_start(
    arguments, token, said, monkeypatch, capsys
):
    monkeypatch.delenv("GROK_LENS_MODEL_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("GROK_LENS_MODEL_TOKEN", token)
    assert serve.main(arguments) == 2
    assert said in capsys.readouterr().err
