"""The HTTP server of a shared model: who may ask, how much, and how answers are sent."""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import json
import re
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from grok.errors import BusyError, GrokError
from grok.serving import logs
from grok.serving.queue import Waiting
from grok.serving.remote.bodies import BodyError, Call, Limits, Told, document
from grok.serving.remote.calls import CALLS
from grok.serving.remote.running import Run, as_json, described, note

if TYPE_CHECKING:
    from grok.serving.shared_model import SharedModel

ALIVE = 2.0  # seconds between two signs of life of a run that tells nothing
OPENS = 10.0  # seconds that a quick call waits for the model to be opened
BODY_SECONDS = 30.0  # in which a body must have come
MOST_RUNS = 320  # threads: who waits in the queue, and who is told that it is full
PERSON = "x-grok-lens-person"
BACKGROUND = "x-grok-lens-background"
DTYPE = "x-grok-lens-dtype"
_PERSON = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
NPZ, LINES = "application/x-npz", "application/x-ndjson"
NUMBERS = (
    *("vocab_size", "d_model", "n_layers", "n_experts", "top_k", "d_ff"),
    *("context_length", "eos_token"),
)
LISTS = ("eos_tokens", "moe_layers")
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
Endpoint = Callable[[Request], Awaitable[Response]]


class NotAllowed(GrokError):
    """A request that is refused before it is read.

    Attributes:
        status, where, found, expected, do: of the answer.
    """

    def __init__(self, status: int, where: str, found: str, expected: str, do: str) -> None:
        super().__init__(f"{where}: found {found}; expected {expected}. {do}")
        self.status = status
        self.parts = {"where": where, "found": found, "expected": expected, "do": do}


class Opening:
    """A model that is opened in a thread, when it is first needed or told to begin.

    Args:
        load: opens it; told how many tensors are read.
        failed: told why it cannot be opened.
    """

    def __init__(
        self,
        load: Callable[[Callable[[int, int], object]], SharedModel],
        failed: Callable[[BaseException], object],
    ) -> None:
        self._load, self._failed = load, failed
        self._lock, self._begun = threading.Lock(), False
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self.model: SharedModel | None = None
        self.read = (0, 0)

    def begin(self) -> None:
        """Open it, unless that was begun before."""
        with self._lock:
            if self._begun:
                return
            self._begun = True
        threading.Thread(target=self._open, name="grok-open", daemon=True).start()

    def _open(self) -> None:
        try:
            self.model = self._load(lambda done, total: setattr(self, "read", (done, total)))
        except BaseException as error:
            self._error = error
            self._failed(error)
        finally:
            self._ended.set()

    def opened(self, told: Told | None = None) -> SharedModel:
        """The model, once it is open.

        Args:
            told: that it is waited for; None: nobody can be told, so not for long.

        Raises:
            BusyError: it is not yet, and nobody is told.
            GrokError: it cannot be opened.
        """
        self.begin()
        if told is None:
            self._ended.wait(OPENS)
        else:
            while not self._ended.wait(0.5):
                told.waiting(Waiting(1, 0.0))
        if isinstance(self._error, GrokError):
            raise self._error
        if self.model is None:
            text = "The model is being opened. Try again in about 5 seconds."
            raise BusyError(text, retry_after=5)
        return self.model


class ModelServer:
    """The application; `app` is for uvicorn.

    Args:
        openings: the model by the dtype of its activations; the first is the usual one.
        token: that requests must bear; None: only those to a loopback address are answered.
        limits: of one call.
    """

    def __init__(self, openings: Mapping[str, Opening], token: str | None, limits: Limits) -> None:
        self.openings, self._token, self.limits = openings, token, limits
        self.opening = next(iter(openings.values()))
        self._runs: dict[str, Run] = {}
        calls = [
            Route(f"/v1/{name}", self._guarded(partial(self._call, name, call)), methods=["POST"])
            for name, call in CALLS.items()
        ]
        self.app = Starlette(
            routes=[
                *calls,
                Route("/v1/model", self._guarded(self._model)),
                Route("/v1/requests/{request}", self._guarded(self._cancel), methods=["DELETE"]),
                Route("/openapi.json", self._document),
                Route("/healthz", self._healthz),
                Route("/readyz", self._readyz),
                Route("/metrics", self._metrics),
            ],
            lifespan=self._life,
        )

    @asynccontextmanager
    async def _life(self, _app: object) -> AsyncIterator[None]:
        self.opening.begin()
        yield
        for run in list(self._runs.values()):
            run.cancel()

    # what anybody may ask

    async def _healthz(self, _request: Request) -> Response:
        return PlainTextResponse("ok")

    async def _readyz(self, _request: Request) -> Response:
        done, total = self.opening.read
        ready = self.opening.model is not None
        said = {"ready": ready, "read": done, "of": total}
        return JSONResponse(said, status_code=200 if ready else 503)

    async def _metrics(self, _request: Request) -> Response:
        text = await run_in_threadpool(generate_latest)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    async def _document(self, _request: Request) -> Response:
        return JSONResponse(document(CALLS))

    # what needs the token

    def _guarded(self, answer: Endpoint) -> Endpoint:
        """Answers whoever may ask; gives the request an id; turns errors into JSON."""

        async def guarded(request: Request) -> Response:
            identity = logs.request_id(request.scope["headers"])
            mark = logs.REQUEST.set(identity)
            where = f"{request.method} {request.url.path.partition('/requests')[0]}"
            try:
                self._admit(request)
                found = await answer(request)
            except ClientDisconnect:
                found = Response(status_code=499)
            except NotAllowed as error:
                said = {"type": "NotAllowed", "message": str(error), "request": identity}
                found = JSONResponse({"error": said | error.parts}, status_code=error.status)
            except Exception as error:
                found = _refusal(described(error, where))
            finally:
                logs.REQUEST.reset(mark)
            found.headers["X-Request-Id"] = identity
            return found

        return guarded

    def _admit(self, request: Request) -> None:
        given = request.headers.get("authorization", "")
        if self._token is not None:
            wanted = f"Bearer {self._token}"
            if not hmac.compare_digest(given.encode(), wanted.encode()):
                found = "another one" if given else "none"
                do = "Send the token that the server was started with (GROK_LENS_MODEL_TOKEN)."
                raise NotAllowed(401, "Authorization", found, "Bearer and the token", do)
            return
        host = request.headers.get("host", "")
        name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
        if name not in LOOPBACK:  # a page elsewhere that has a name of its own lead here
            do = "Ask by 127.0.0.1, or start the server with a token."
            raise NotAllowed(403, "Host", "another name", "a loopback address", do)

    async def _model(self, _request: Request) -> Response:
        model = await run_in_threadpool(self.opening.opened)
        sizes: dict[str, Any] = {name: int(getattr(model.config, name)) for name in NUMBERS}
        sizes |= {name: [int(i) for i in getattr(model.config, name)] for name in LISTS}
        return JSONResponse(
            {
                "name": model.name,
                "sha256": model.sha256,
                "dtype": model.dtype,
                "dtypes": list(self.openings),
                "mode": model.model.mode,
                "pad_token": model.pad_token,
                "score": model.model.score,
                "plain_gates": model.model.plain_gates,
                "has_tokenizer": model.model.tokenizer is not None,
                "has_chat_template": model.has_chat_template,
                "sizes": sizes,
                "limits": dataclasses.asdict(self.limits),
            }
        )

    async def _cancel(self, request: Request) -> Response:
        run = self._runs.get(request.path_params["request"])
        if run is not None:
            run.cancel()
        return JSONResponse({"cancelled": run is not None})

    async def _call(self, name: str, call: Call, request: Request) -> Response:
        body = call.check(await self._body(request))
        person = request.headers.get(PERSON)
        if person is not None and not _PERSON.fullmatch(person):
            raise BodyError(PERSON, "another form", "1 to 128 letters, digits and _ . : -")
        background = request.headers.get(BACKGROUND) == "1"
        dtype = request.headers.get(DTYPE, next(iter(self.openings)))
        if dtype not in self.openings:
            raise BodyError(DTYPE, "another one", f"one of {', '.join(self.openings)}")
        opening = self.openings[dtype]
        if call.quick:
            began = time.monotonic()
            told, status = Told(*[lambda *_: None] * 4), 500
            try:
                found = await run_in_threadpool(
                    lambda: call.work(opening.opened(), body, told, self.limits)
                )
                status = 200
            except GrokError as error:
                status = int(described(error, request.url.path)["status"])
                raise
            finally:
                note(name, status, time.monotonic() - began)
            return JSONResponse(found)

        def work_of(told: Told) -> Any:
            model = opening.opened(told).of(person, background=background)
            return call.work(model, body, told, self.limits)

        if len(self._runs) >= MOST_RUNS:
            text = f"{len(self._runs)} calls wait already. Try again in about 10 seconds."
            raise BusyError(text, retry_after=10)
        run = Run(work_of, name)
        identity = str(logs.REQUEST.get())
        while identity in self._runs:  # a proxy gave it twice
            identity += "+"
        self._runs[identity] = run
        run.start()
        ends = partial(self._runs.pop, identity, None)
        return await self._answered(run, request, ends)

    async def _answered(self, run: Run, request: Request, ends: Callable[[], object]) -> Response:
        alone = request.headers.get("accept", "") == NPZ
        try:
            while (event := await run.next(ALIVE)) is None or (
                alone and event["event"] not in ("result", "error")
            ):
                if event is None and await request.is_disconnected():
                    raise ClientDisconnect
                if event is None and not alone:
                    event = {"event": "alive"}
                    break
            if event["event"] == "error":
                ends()
                return _refusal(event)
            if alone:
                ends()
                return Response(event["npz"], media_type=NPZ)
        except BaseException:
            run.cancel()
            ends()
            raise
        return StreamingResponse(self._lines(run, event, request, ends), media_type=LINES)

    async def _lines(
        self,
        run: Run,
        event: Mapping[str, Any] | None,
        request: Request,
        ends: Callable[[], object],
    ) -> AsyncIterator[bytes]:
        """The events, a line each; when nobody reads them any more the run ends."""
        try:
            while True:
                if event is None:
                    if await request.is_disconnected():
                        return
                    event = {"event": "alive"}
                yield json.dumps(as_json(event)).encode() + b"\n"
                if event["event"] in ("result", "error"):
                    return
                event = await run.next(ALIVE)
        finally:
            run.cancel()
            ends()

    async def _body(self, request: Request) -> Any:
        """The JSON object, no more of it than is allowed."""
        most = self.limits.body_bytes
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            do = "Send JSON and say so."
            raise NotAllowed(415, "Content-Type", "another type", "application/json", do)
        data = bytearray()
        try:
            async with asyncio.timeout(BODY_SECONDS):
                if int(request.headers.get("content-length", 0) or 0) > most:
                    raise _too_large(most)
                async for part in request.stream():
                    data += part
                    if len(data) > most:
                        raise _too_large(most)
        except TimeoutError as error:
            seconds = f"{BODY_SECONDS:.0f} seconds"
            do = "Send it faster."
            raise NotAllowed(408, "body", "a part", f"all of it in {seconds}", do) from error
        try:
            return json.loads(bytes(data))
        except (ValueError, RecursionError) as error:
            raise BodyError("body", f"{len(data)} bytes that are no JSON", "an object") from error


def _too_large(most: int) -> NotAllowed:
    do = "Send fewer prompts, or shorter ones."
    return NotAllowed(413, "body", "more", f"at most {most:,} bytes", do)


def _refusal(said: Mapping[str, Any]) -> Response:
    error = said["error"]
    headers = {"Retry-After": str(error["retry_after"])} if "retry_after" in error else {}
    return JSONResponse({"error": error}, status_code=said["status"], headers=headers)
