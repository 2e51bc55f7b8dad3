"""Explanations by a language model behind an OpenAI-compatible endpoint; off unless configured.

    GROK_LENS_EXPLAINER_URL      such as http://127.0.0.1:8080/v1
    GROK_LENS_EXPLAINER_MODEL    its name there
    GROK_LENS_EXPLAINER_KEY      sent as a bearer token, where the endpoint wants one

Excerpts of the text of the pass are sent there. What comes back is text that is cut and shown;
an answer that is no list of yes and no counts as no.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from lens.errors import LensError
from lens.escaping import plain
from lens.features.explaining.excerpts import Excerpts
from lens.features.explaining.judging import Proposal
from lens.features.explaining.predicates import SPACE

URL_VARIABLE = "GROK_LENS_EXPLAINER_URL"
MODEL_VARIABLE = "GROK_LENS_EXPLAINER_MODEL"
KEY_VARIABLE = "GROK_LENS_EXPLAINER_KEY"
PATIENCE = 60.0  # seconds
LARGEST_ANSWER = 2**20  # bytes
SHOWN, TOGETHER = 12, 5  # excerpts to explain, and of one question to judge
LONGEST = 300  # characters of an explanation
OPEN, CLOSE = "<<", ">>"

_EXPLAIN = (
    "You see excerpts from texts. The tokens between << and >> are those at which a feature of a "
    "language model is active. Say in one short sentence, without introduction, when it is active."
)
_DETECT = (
    "A feature of a language model is described so: {text}\nFor each numbered excerpt, say "
    "whether the feature is active anywhere in it. Answer with a JSON list of 0 and 1, one for "
    "each excerpt, and nothing else."
)
_CONFIRM = (
    "A feature of a language model is described so: {text}\nFor each numbered excerpt, say "
    "whether it is active at the token between << and >>. Answer with a JSON list of 0 and 1, one "
    "for each excerpt, and nothing else."
)


@dataclass(frozen=True)
class Endpoint:
    """Where a language model is asked.

    Attributes:
        url: up to and without "/chat/completions".
        model: its name there.
        key: sent along, unless empty.

    Raises:
        LensError: no address of that kind.
    """

    url: str
    model: str
    key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            fine = parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:
            fine = False
        if not fine or not self.model:
            raise LensError(
                f"{URL_VARIABLE} and {MODEL_VARIABLE}: found {plain(self.url)[:80]!r} and "
                f"{plain(self.model)[:80]!r}; expected an http or https address and a name."
            )

    def ask(self, instruction: str, text: str) -> str:
        """The model's answer.

        Raises:
            LensError: no answer, or one that is none of a chat.
        """
        import httpx

        body = {
            "model": self.model,
            "temperature": 0,
            "messages": [
                {"role": "system", "content": instruction},
                {"role": "user", "content": text},
            ],
        }
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            with httpx.stream(
                "POST", f"{self.url.rstrip('/')}/chat/completions", json=body, headers=headers,
                timeout=PATIENCE, follow_redirects=False,
            ) as answer:  # fmt: skip
                content = b""
                for part in answer.iter_bytes():
                    content += part
                    if len(content) > LARGEST_ANSWER:
                        raise LensError(f"{URL_VARIABLE}: an answer of over a megabyte; stopped.")
                status = answer.status_code
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise LensError(
                f"{URL_VARIABLE}: {urlsplit(self.url).hostname} does not answer "
                f"({type(error).__name__}). Check the address, or explain without it."
            ) from error
        if status != 200:
            raise LensError(f"{URL_VARIABLE}: the endpoint answers {status}; expected 200.")
        return _said(content)


def _said(content: bytes) -> str:
    try:
        found: Any = json.loads(content)
        text = found["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise LensError(f"{URL_VARIABLE}: the answer is none of a chat completion.") from error
    if not isinstance(text, str):
        raise LensError(f"{URL_VARIABLE}: the answer holds no text.")
    return text


@dataclass(frozen=True)
class ModelJudge:
    """Judges by asking the model."""

    endpoint: Endpoint
    text: str
    pieces: Sequence[str]

    def detect(self, excerpts: Excerpts) -> np.ndarray:
        """Whether the model says that the feature is active in each."""
        texts = [excerpt_text(excerpts, i, self.pieces, ()) for i in range(len(excerpts))]
        return self._asked(_DETECT, texts)

    def confirm(self, excerpts: Excerpts, marks: np.ndarray) -> np.ndarray:
        """Whether the model says that it is active at the mark of each."""
        texts = [
            excerpt_text(excerpts, i, self.pieces, (int(mark),)) for i, mark in enumerate(marks)
        ]
        return self._asked(_CONFIRM, texts)

    def _asked(self, instruction: str, texts: Sequence[str]) -> np.ndarray:
        answers = np.zeros(len(texts), bool)
        for first in range(0, len(texts), TOGETHER):
            some = texts[first : first + TOGETHER]
            numbered = "\n".join(f"{i + 1}. {text}" for i, text in enumerate(some))
            said = self.endpoint.ask(instruction.format(text=self.text), numbered)
            answers[first : first + len(some)] = yes_or_no(said, len(some))
        return answers


@dataclass(frozen=True)
class ModelExplainer:
    """Explains by asking a language model."""

    endpoint: Endpoint
    pieces: Sequence[str]

    @property
    def name(self) -> str:
        return plain(self.endpoint.model)[:60]

    def explain(self, excerpts: Excerpts) -> Proposal | None:
        """What the model says of the excerpts in which the feature is most active."""
        strength = excerpts.values.max(1, initial=0)
        order = [i for i in np.argsort(-strength, kind="stable")[:SHOWN] if strength[i] > 0]
        if not order:
            return None
        texts = [
            excerpt_text(excerpts, i, self.pieces, np.flatnonzero(excerpts.active[i]).tolist())
            for i in order
        ]
        said = self.endpoint.ask(_EXPLAIN, "\n".join(texts))
        text = plain(" ".join(said.split()))[:LONGEST]
        if not text:
            return None
        return Proposal(text, ModelJudge(self.endpoint, text, self.pieces))


def explainer_of_environment(
    pieces: Sequence[str], environment: Mapping[str, str] = os.environ
) -> ModelExplainer | None:
    """The configured language model; None where none is.

    Raises:
        LensError: the address is none.
    """
    url = environment.get(URL_VARIABLE, "").strip()
    if not url:
        return None
    model = environment.get(MODEL_VARIABLE, "").strip()
    return ModelExplainer(Endpoint(url, model, environment.get(KEY_VARIABLE, "")), pieces)


def excerpt_text(
    excerpts: Excerpts, which: int, pieces: Sequence[str], marks: Sequence[int]
) -> str:
    """One excerpt in a line, some of its tokens between << and >>."""
    said = []
    for place, token in enumerate(excerpts.ids[which]):
        if token < 0:
            break
        piece = pieces[token] if token < len(pieces) else "?"
        piece = piece.replace(SPACE, " ").replace("\n", "↵")
        said.append(f"{OPEN}{piece}{CLOSE}" if place in marks else piece)
    return plain("".join(said))


def yes_or_no(answer: str, n: int) -> list[bool]:
    """The answers of a text such as "[1, 0, 1]"; what is no list of so many is no to all."""
    match = re.search(r"\[[\s01,]*\]", answer)
    try:
        found = json.loads(match[0]) if match else []
    except ValueError:
        found = []
    return [one == 1 for one in found] if len(found) == n else [False] * n
