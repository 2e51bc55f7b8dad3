"""`python -m grok.serve`: holds a model behind an HTTP API, for web processes and programs.

It keeps watch over the process that holds the model and starts it again when it dies. The address
stays open meanwhile, so who asks then waits. GROK_LENS_MODEL_TOKEN is the token that requests
must bear; without one only this machine is served. GET /openapi.json describes the calls.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from grok.errors import GrokError
from grok.units import budget_bytes

if TYPE_CHECKING:
    from grok.serving.shared_model import SharedModel

TOKEN_VARIABLE = "GROK_LENS_MODEL_TOKEN"
LIMIT_VARIABLE = "GROK_LENS_MAX_PROMPT_TOKENS"
SHORTEST_TOKEN = 16
PORT = 8700
BACKLOG = 1024
GRACE = 20.0  # seconds that the model's process may take to end
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before it is started again
LIVED = 60.0  # seconds after which the pause is the first again
WARM_LENGTHS = (16, 32, 64, 128)
DTYPES = ("bfloat16", "float32")
UNUSABLE = 2  # exit code: starting again would not help


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code, 2 for input that it cannot use."""
    args = _parser().parse_args(argv)
    try:
        token = _token(args.host)
        budget_bytes(args.memory_budget)  # refused before anybody waits
        if args.worker is not None:
            return _serve(args, token)
        listening = _listen(args.host, args.port)
    except GrokError as error:
        print(f"grok.serve: {error}", file=sys.stderr)
        return UNUSABLE
    host, port = listening.getsockname()[:2]
    print(f"grok.serve: http://{host}:{port}", flush=True)
    given = list(sys.argv[1:] if argv is None else argv)
    return supervise([sys.executable, "-m", "grok.serve", *given], listening)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m grok.serve", description=__doc__)
    parser.add_argument(
        "--checkpoint", type=Path, metavar="DIR", help="its folder (default: the bundled model)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=PORT, help=f"0: a free one (default: {PORT})")
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        help="of activations, this one alone (default: bfloat16, and float32 when it is asked for "
        "and there is room for the model twice)",
    )
    parser.add_argument("--mode", choices=["auto", "resident", "streamed"], default="auto")
    parser.add_argument(
        "--memory-budget", type=float, metavar="GB", help="memory that streaming may take"
    )
    parser.add_argument(
        "--max-prompt-tokens",
        type=int,
        metavar="N",
        help=f"longest prompt (default: {LIMIT_VARIABLE}, else the model's context)",
    )
    parser.add_argument(
        "--no-warm", action="store_true", help="compile no batches before they are asked for"
    )
    # The process that holds the model: file numbers of the socket and of the watch over it.
    parser.add_argument("--worker", type=int, nargs=2, help=argparse.SUPPRESS)
    return parser


def _token(host: str) -> str | None:
    """The token of the environment.

    Raises:
        GrokError: there is none and others than this machine could ask, or it is short.
    """
    token = os.environ.get(TOKEN_VARIABLE) or None
    if token is None and not _is_loopback(host):
        raise GrokError(
            f"--host {host}: others could ask for runs there, and {TOKEN_VARIABLE} is not set. Set "
            "it to a long random text, here and where the app runs, or listen at 127.0.0.1."
        )
    if token is not None and (len(token) < SHORTEST_TOKEN or not token.isascii()):
        raise GrokError(
            f"{TOKEN_VARIABLE} has {len(token)} characters; expected {SHORTEST_TOKEN} or more "
            "plain ones. Make one with: python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    return token


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        GrokError: it cannot.
    """
    if not 0 <= port < 2**16:
        raise GrokError(f"--port {port}: nothing can listen there; expected 0 to 65535.")
    try:
        return socket.create_server(
            (host, port),
            family=socket.AF_INET6 if ":" in host else socket.AF_INET,
            backlog=BACKLOG,
        )
    except OSError as error:
        raise GrokError(
            f"--host {host} --port {port}: nothing can listen there ({error}). Choose another port."
        ) from error


# --- the watch over it ------------------------------------------------------------------


def supervise(command: Sequence[str], listening: socket.socket) -> int:
    """Starts a process that serves from a socket, again when it dies; returns its last exit code.

    Args:
        command: the process; it is given `--worker` with file numbers of the socket and of a
            pipe that closes when this process has ended.
    """
    ending = threading.Event()
    child: list[subprocess.Popen[bytes]] = []

    def end(signum: int, frame: FrameType | None) -> None:
        ending.set()
        for one in child:
            if one.poll() is None:
                one.terminate()

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, end)
    alive, _held = os.pipe()
    files = (listening.fileno(), alive)
    pause, code = FIRST_PAUSE, 0
    while not ending.is_set():
        began = time.monotonic()
        child[:] = [subprocess.Popen([*command, "--worker", *map(str, files)], pass_fds=files)]
        if ending.is_set():  # it came while the process was being started
            child[0].terminate()
        code = _wait(child[0], ending)
        if ending.is_set() or code in (0, UNUSABLE):
            break
        pause = FIRST_PAUSE if time.monotonic() - began > LIVED else min(2 * pause, LONGEST_PAUSE)
        print(
            f"grok.serve: the model's process ended with {code}; it is started again in "
            f"{pause:g} s.",
            file=sys.stderr,
            flush=True,
        )
        ending.wait(pause)
    return 0 if ending.is_set() else code


def _wait(process: subprocess.Popen[bytes], ending: threading.Event) -> int:
    """The exit code of a process, which is killed where it does not end when it should."""
    until = None
    while True:
        try:
            return process.wait(0.5)
        except subprocess.TimeoutExpired:
            if ending.is_set():
                until = until or time.monotonic() + GRACE
                if time.monotonic() > until:
                    process.kill()


# --- the process that holds the model ---------------------------------------------------


def _serve(args: argparse.Namespace, token: str | None) -> int:
    import uvicorn

    from grok.serving import logs
    from grok.serving.remote.bodies import Limits
    from grok.serving.remote.server import ModelServer, Opening

    if logs.wanted():
        logs.install()
        logging.getLogger("grok_lens.model").setLevel(logging.INFO)
    number, alive = args.worker
    listening = socket.socket(fileno=number)
    problem: list[BaseException] = []
    server: uvicorn.Server

    def failed(error: BaseException) -> None:
        problem.append(error)
        server.should_exit = True

    usual = args.dtype or DTYPES[0]
    openings = {usual: Opening(lambda tell: _load(args, usual, tell), failed)}
    if args.dtype is None:
        other = DTYPES[1]
        openings[other] = Opening(lambda tell: _load(args, other, tell), lambda error: None)
    app = ModelServer(openings, token, Limits(_longest(args))).app
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    _end_with(alive, server)
    asyncio.run(server.serve([listening]))
    code = 0
    for error in problem:
        print(f"grok.serve: {error}", file=sys.stderr, flush=True)
        code = UNUSABLE if isinstance(error, GrokError) else 1
    os._exit(code)  # a thread inside native code would take the interpreter's end badly


def _longest(args: argparse.Namespace) -> int | None:
    if args.max_prompt_tokens is not None:
        return int(args.max_prompt_tokens)
    named = os.environ.get(LIMIT_VARIABLE, "")
    return int(named) if named.isdigit() and int(named) else None


def _load(args: argparse.Namespace, dtype: str, tell: Callable[[int, int], object]) -> SharedModel:
    from grok.architectures.families import architecture_of, open_checkpoint
    from grok.config import BUNDLED_MODEL
    from grok.errors import DeviceError
    from grok.planning import machine
    from grok.runner.loading import device_memory, load, memory_needed
    from grok.serving.batches import Kind
    from grok.serving.shared_model import SharedModel

    usual = dtype == (args.dtype or DTYPES[0])
    if not usual:
        checkpoint = open_checkpoint(args.checkpoint or BUNDLED_MODEL)
        if memory_needed(architecture_of(checkpoint)) > device_memory() / 4:
            raise DeviceError("There is no room here for this model twice; use bfloat16.")
    loaded = load(
        args.checkpoint,
        mode=args.mode,
        dtype=dtype,
        memory_budget=budget_bytes(args.memory_budget),
        progress=lambda done, total: (tell(done, total), None)[1],
    )
    rates = None
    if loaded.mode == "streamed":  # so that `plan` knows times before somebody waits for them
        rates = machine.rates(
            open_checkpoint(args.checkpoint or BUNDLED_MODEL), loaded.engine.architecture
        )
    model = SharedModel(loaded, rates)
    if usual and not args.no_warm and not model.streamed:
        count = model.model.n_candidates(10)
        model.batches.warm([Kind(length, count) for length in WARM_LENGTHS])
    return model


def _end_with(alive: int, server: object) -> None:
    """Ends this process when the one that watches over it has ended."""

    def watch() -> None:
        os.read(alive, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="grok-watch", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
