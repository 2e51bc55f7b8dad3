"""A model that another process holds: the same calls, sent to its server.

A call whose server went away before it answered is sent once more, as every call gives the same
again; a continuation goes on after the tokens that are there. Where that fails too, `BusyError`
says what to do.
"""

from __future__ import annotations

import base64
import copy
import os
import secrets
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from grok.errors import BusyError, GrokError
from grok.serving.queue import OnWait
from grok.serving.remote.transport import RESTARTED, TRIES, Events, LostError, Transport
from grok.serving.remote.wire import unpacked

if TYPE_CHECKING:
    from pathlib import Path

    from grok.engine.compiled import Forward
    from grok.engine.engine import Batch
    from grok.experiments.ablation import AblationSweep
    from grok.experiments.collection import Collection
    from grok.experiments.forks import Progress
    from grok.experiments.logit_lens import LogitLens
    from grok.experiments.patching import PatchSweep
    from grok.experiments.what_if import WhatIf
    from grok.interventions.edits import Edits
    from grok.planning.modes import ModePlan
    from grok.runner.interfaces import Prompt
    from grok.runner.results import Generation, Step
    from grok.trace import RoutingTrace

URL_VARIABLE, TOKEN_VARIABLE = "GROK_LENS_MODEL_URL", "GROK_LENS_MODEL_TOKEN"
SILENCE = 60.0  # seconds without any sign of the server


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model elsewhere; a `grok.config.ModelConfig`."""

    vocab_size: int
    d_model: int
    n_layers: int
    n_experts: int
    top_k: int
    d_ff: int
    context_length: int
    eos_token: int
    eos_tokens: tuple[int, ...]
    moe_layers: tuple[int, ...]


class RemoteModel:
    """A model behind `python -m grok.serve`; a `grok.serving.interfaces.ServedModel`.

    >>> model = RemoteModel("http://127.0.0.1:8700", token="…")   # doctest: +SKIP
    >>> model.trace("The old captain looked out").experts.shape   # doctest: +SKIP

    Args:
        url: of the server.
        token: it was started with; that of GROK_LENS_MODEL_TOKEN when None.
        dtype: of activations; the server's usual one when None.
        silence: seconds without any sign of the server after which a call ends.

    Attributes:
        config, name, sha256, dtype: of the model.
        has_tokenizer: whether prompts can be texts.
        has_chat_template: whether messages of a chat can be made prompts.
        streamed: whether every pass reads its weights from disk.

    Raises:
        GrokError: there is no such server, it is not ready, or it does not take the token.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        dtype: str | None = None,
        silence: float = SILENCE,
    ) -> None:
        token = os.environ.get(TOKEN_VARIABLE) if token is None else token
        self._transport = Transport(url, token, silence)
        self.person: Hashable = secrets.token_hex(8)
        self.background = False
        self.dtype = ""
        about = self._quick("GET", "model")
        sizes: dict[str, Any] = about["sizes"]
        self.config = Sizes(
            **sizes | {name: tuple(sizes[name]) for name in ("eos_tokens", "moe_layers")}
        )
        self.pad_token: int | None = about["pad_token"]
        self.score, self.plain_gates = str(about["score"]), bool(about["plain_gates"])
        self.name, self.sha256 = about["name"], about["sha256"]
        self.dtype = dtype or about["dtype"]
        if self.dtype not in about["dtypes"]:
            raise GrokError(
                f"The model's server computes in {' or '.join(about['dtypes'])}, not {dtype}. "
                f"Choose that, or start it with --dtype {dtype}."
            )
        self.has_tokenizer, self.streamed = about["has_tokenizer"], about["mode"] == "streamed"
        self.has_chat_template = bool(about.get("has_chat_template"))

    def of(self, person: Hashable, *, background: bool = False) -> RemoteModel:
        """The same model, for the calls of one person."""
        own = copy.copy(self)
        own.person = self.person if person is None else person
        own.background = background
        return own

    # texts and tokens

    def plan(self, n_tokens: int) -> ModePlan:
        """An estimate of what a pass over so many tokens takes at the server."""
        from grok.planning.modes import ModePlan

        return ModePlan(**self._quick("POST", "plan", {"tokens": n_tokens}))

    def encode(self, prompt: Prompt) -> np.ndarray:
        """Token ids [T] of a text, or ids as they are, checked."""
        found = self._quick("POST", "encode", {"prompt": _plain(prompt)})
        return np.array(found["tokens"], np.int32)

    def chat_prompt(self, text: str) -> str:
        """A message of a user as the prompt that the model was taught, made at the server."""
        return str(self._quick("POST", "chat", {"text": text})["prompt"])

    def pieces(self, tokens: Sequence[int] | np.ndarray, *, apart: bool = False) -> list[str]:
        """The pieces of ids; see `Model.pieces`."""
        body = {"tokens": _plain(tokens), "apart": apart}
        return list(self._quick("POST", "pieces", body)["pieces"])

    def text(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of ids."""
        return str(self._quick("POST", "pieces", {"tokens": _plain(tokens)})["text"])

    # runs

    def trace(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> RoutingTrace:
        """The routing of a prompt; options as for `Model.trace_routing`."""
        body = {"prompt": _plain(prompt), **_options(options)}
        found: RoutingTrace = self._result("trace", body, on_wait)
        return found

    def trace_all(
        self, prompts: Sequence[Prompt], *, on_wait: OnWait | None = None, candidates: int = 10
    ) -> list[RoutingTrace]:
        """The routing of several prompts."""
        body = {"prompts": [_plain(one) for one in prompts], "candidates": candidates}
        return list(self._result("trace_all", body, on_wait))

    def what_if(
        self, prompt: Prompt, edits: Edits, *, on_wait: OnWait | None = None, **options: Any
    ) -> WhatIf:
        """A prompt with and without edits."""
        return self.what_ifs(prompt, [edits], on_wait=on_wait, **options)[0]

    def what_ifs(
        self,
        prompt: Prompt,
        edits: Sequence[Edits],
        *,
        on_wait: OnWait | None = None,
        candidates: int = 10,
    ) -> list[WhatIf]:
        """A prompt as it is, and under each of several edits apart."""
        from grok.interventions.plain import plain_edits

        own = [plain_edits(one) for one in edits]
        body = {"prompt": _plain(prompt), "edits": own, "candidates": candidates}
        return list(self._result("what_ifs", body, on_wait))

    def logit_lens(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> LogitLens:
        """Next tokens that the stream after each layer stands for."""
        body = {"prompt": _plain(prompt), **_options(options)}
        found: LogitLens = self._result("logit_lens", body, on_wait)
        return found

    def ablation_sweep(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> AblationSweep:
        """The effect of each expert; options as for `grok.experiments.ablation_sweep`."""
        progress = options.pop("progress", None)
        body = {"prompt": _plain(prompt), **_options(options)}
        found: AblationSweep = self._result("ablation_sweep", body, on_wait, progress)
        return found

    def patch_sweep(
        self, clean: Prompt, corrupt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> PatchSweep:
        """Values of one prompt in another; options as for `grok.experiments.patch_sweep`."""
        progress = options.pop("progress", None)
        body = {"clean": _plain(clean), "corrupt": _plain(corrupt), **_options(options)}
        found: PatchSweep = self._result("patch_sweep", body, on_wait, progress)
        return found

    def stream(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> Iterator[Step]:
        """A continuation, token by token, without logits; closing it ends it."""
        body = {"prompt": _plain(prompt), **_options(options)}
        made = 0
        for left in reversed(range(TRIES)):
            seen = 0
            try:
                with closing(self._events("stream", body, on_wait)) as events:
                    for event in events:
                        if event["event"] == "step":
                            seen += 1
                            if seen > made:  # the same tokens come again
                                made += 1
                                yield unpacked(_bytes(event))
                return
            except LostError as error:
                if not left:
                    raise BusyError(RESTARTED, retry_after=5) from error

    def generate(
        self, prompt: Prompt, *, on_wait: OnWait | None = None, **options: Any
    ) -> Generation:
        """A continuation."""
        return self.collect(list(self.stream(prompt, on_wait=on_wait, **options)), options)

    def collect(self, steps: Sequence[Step], options: Mapping[str, Any]) -> Generation:
        """The steps of a continuation put together."""
        from grok.runner.results import generation_of

        return generation_of(self, steps, options)

    def collect_prompts(
        self,
        prompts: Sequence[Prompt],
        folder: str | Path,
        *,
        check: Callable[[], object],
        labels: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> Collection:
        """The routing of many prompts in a folder of this process, made in the background."""
        from grok.experiments.collecting import collect

        passes: Any = _Passes(self.of(self.person, background=True), check)
        return collect(passes, prompts, folder, labels=labels, progress=progress)

    # what is sent

    def read_rows(self, rows: Sequence[np.ndarray], on_wait: OnWait | None = None) -> Forward:
        """The routing of prompts padded to one length, without next tokens."""
        body = {"rows": [_plain(one) for one in rows]}
        found: Forward = self._result("forward", body, on_wait)
        return found

    def _headers(self) -> dict[str, str]:
        found = {"X-Grok-Lens-Person": str(self.person)}
        if self.dtype:
            found["X-Grok-Lens-Dtype"] = self.dtype
        if self.background:
            found["X-Grok-Lens-Background"] = "1"
        return found

    def _quick(self, method: str, call: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._transport.quick(method, call, self._headers(), body)

    def _events(
        self,
        call: str,
        body: Mapping[str, Any],
        on_wait: OnWait | None,
        progress: Progress | None = None,
    ) -> Events:
        return self._transport.events(call, self._headers(), body, on_wait, progress)

    def _result(
        self,
        call: str,
        body: Mapping[str, Any],
        on_wait: OnWait | None,
        progress: Progress | None = None,
    ) -> Any:
        for left in reversed(range(TRIES)):
            try:
                with closing(self._events(call, body, on_wait, progress)) as events:
                    for event in events:
                        if event["event"] == "result":
                            return unpacked(_bytes(event))
                raise LostError
            except LostError as error:
                if not left:
                    raise BusyError(RESTARTED, retry_after=5) from error
        raise AssertionError("the last try returns or raises")


class _Passes:
    """What `grok.experiments.collect` needs of a model, of one that is elsewhere."""

    tells = False

    def __init__(self, model: RemoteModel, check: Callable[[], object]) -> None:
        self._model, self._check = model, check
        self.name, self.sha256, self.dtype = model.name, model.sha256, model.dtype
        self.config = model.config
        self.encode, self.pieces, self.text = model.encode, model.pieces, model.text
        self.pad_token = model.pad_token
        self.engine = self.layers = self.architecture = self

    def sites(self) -> list[Any]:
        return []

    def max_rows(self, kept_bytes: int = 0) -> None:
        return None

    def run(self, batches: Sequence[Batch]) -> list[Forward]:
        """As `Engine.run`; where the server is busy or starts anew it is asked again."""
        return [self._row(batch) for batch in batches]

    def _row(self, batch: Batch) -> Forward:
        lengths = [max(np.flatnonzero(keys), default=0) + 1 for keys in batch.key_is_token]
        rows = [tokens[:n] for tokens, n in zip(batch.tokens, lengths, strict=True)]
        while True:
            self._check()
            try:
                return self._model.read_rows(rows, lambda waiting: self._check())
            except BusyError as error:
                end = time.monotonic() + (error.retry_after or 1)
                while time.monotonic() < end:
                    self._check()
                    time.sleep(0.2)


def _plain(prompt: Prompt) -> Any:
    return prompt if isinstance(prompt, str) else np.asarray(prompt).tolist()


def _options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a run as JSON can hold them."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name == "edits":
            from grok.interventions.plain import plain_edits

            value = plain_edits(value)
        elif name == "metric" and value is not None:
            from grok.experiments.metrics import plain_metric

            value = plain_metric(value)
        elif name in ("layers", "positions", "sites") and value is not None:
            value = _listed(value)
        if value is not None:
            found[name] = value
    return found


def _listed(value: Any) -> list[Any]:
    if isinstance(value, str | int):
        return [value]
    return [one if isinstance(one, str) else int(one) for one in value]


def _bytes(event: Mapping[str, Any]) -> bytes:
    return base64.b64decode(event["npz"])


def configured() -> str | None:
    """The address of the model's server, where the environment names one."""
    return os.environ.get(URL_VARIABLE) or None
