"""The chat template of a Hugging Face folder: makes the text that a model was taught of messages.

A template is a program by whoever made the checkpoint. It is rendered by Jinja's immutable sandbox
in a process of its own that has little time, memory and output, so the worst it can do is fail.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grok.checkpoints.safetensors import parse_json
from grok.checkpoints.tokenizer import Tokenizer
from grok.errors import CheckpointError, PromptError, plain

CONFIG, FILE = "tokenizer_config.json", "chat_template.jinja"
MAX_CONFIG = 2**24  # bytes
MAX_TEMPLATE = 2**18  # characters
MAX_TEXT = 2**20
SECONDS = 20.0  # that a rendering may take with all that a busy machine adds
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")
ROLES = ("system", "user", "assistant")

Message = Mapping[str, str]
_AT_ONCE = threading.BoundedSemaphore(2)  # renderings, whoever asks


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template and the special tokens that it may name.

    Attributes:
        source: in Jinja's language.
        where: the file it is from, for messages.
        tokens: texts of the special tokens by their names.
    """

    source: str
    where: str
    tokens: Mapping[str, str] = field(default_factory=dict)

    def render(self, messages: str | Sequence[Message]) -> str:
        """The text that the model was taught for these messages, up to where it answers.

        Args:
            messages: what a user says, or all that was said: each with a role ("system", "user",
                "assistant") and a content.

        Raises:
            PromptError: the messages are none, or the template fails, refuses them, or takes too
                long or too much.
        """
        said = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        asked = {
            "template": self.source,
            "values": {
                **self.tokens,
                "messages": [_checked(one) for one in said],
                "add_generation_prompt": True,
                "tools": None,
                "documents": None,
            },
            "most": MAX_TEXT,
        }
        answer = _in_a_process(asked)
        text = answer.get("text")
        if not isinstance(text, str):
            why = plain(str(answer.get("error", "")), 200) or "it takes too long or too much memory"
            raise PromptError(
                f"{self.where}: the chat template fails on this message ({why}); expected a text. "
                "Run the message as a plain text, or write the model's own form of a chat yourself."
            )
        return text

    def prompt(self, messages: str | Sequence[Message], tokenizer: Tokenizer) -> str:
        """The same as a prompt for a tokenizer, without a first token that this one adds itself.

        Raises:
            PromptError: see `render`.
        """
        text, first = self.render(messages), self.tokens.get("bos_token", "")
        if first and text.startswith(first):
            begin = tokenizer.encode(text[: len(first)]).tolist()
            if len(begin) > 1 and begin[0] == begin[1]:
                return text[len(first) :]
        return text


def read_chat_template(folder: str | os.PathLike[str]) -> ChatTemplate | None:
    """The chat template of a folder, from `chat_template.jinja` or `tokenizer_config.json`.

    Returns:
        None where the folder has none. Of several named ones the one called "default".

    Raises:
        CheckpointError: a file that cannot be read, or that is no template.
    """
    folder = Path(folder)
    config, file = _config(folder / CONFIG), folder / FILE
    where, found = folder / CONFIG, config.get("chat_template")
    if file.is_file():
        where, found = file, _text(file, 4 * MAX_TEMPLATE)
    if isinstance(found, list):
        named = [one for one in found if isinstance(one, dict) and one.get("name") == "default"]
        found = named[0].get("template") if named else None
    if found is None:
        return None
    if not isinstance(found, str) or len(found) > MAX_TEMPLATE:
        kind = f"{len(found):,} characters" if isinstance(found, str) else type(found).__name__
        raise CheckpointError(
            f"{where}: chat_template: found {kind}; expected a text of at most {MAX_TEMPLATE:,} "
            "characters. Take the file from the model's own release."
        )
    tokens = {name: _token(config.get(name)) for name in SPECIAL}
    return ChatTemplate(found, str(where), {name: one for name, one in tokens.items() if one})


def _config(file: Path) -> Mapping[str, object]:
    return parse_json(_text(file, MAX_CONFIG).encode(), str(file)) if file.is_file() else {}


def _text(file: Path, most: int) -> str:
    try:
        with file.open("rb") as stream:
            found = stream.read(most + 1)
        if len(found) > most:
            raise CheckpointError(
                f"{file}: more than {most:,} bytes; expected a tokenizer's settings. Take the file "
                "from the model's own release."
            )
        return found.decode("utf-8")
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}. Complete the download.") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{file}: byte {error.start} is no UTF-8; expected a text. Complete the download."
        ) from error


def _token(value: object) -> str:
    """The text of a special token, as itself or as an object with its content."""
    found = value.get("content") if isinstance(value, dict) else value
    return found if isinstance(found, str) else ""


def _checked(message: Message) -> dict[str, str]:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES or not isinstance(content, str):
        raise PromptError(
            f"A message of a chat: found the role {plain(str(role), 20)} and a "
            f"{type(content).__name__}; expected a role ({', '.join(ROLES)}) and a text."
        )
    return {"role": role, "content": content}


def _in_a_process(asked: Mapping[str, object]) -> Mapping[str, object]:
    """What `render.py` answers; nothing where it was stopped."""
    command = [sys.executable, "-I", str(Path(__file__).with_name("render.py"))]
    try:
        with _AT_ONCE:
            done = subprocess.run(
                command,
                input=json.dumps(asked).encode(),
                capture_output=True,
                timeout=SECONDS,
                env={},
                check=False,
            )
        answer = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, OSError, ValueError):
        return {}
    return answer if isinstance(answer, dict) else {}
