"""Simulated people: each is a tab that speaks to a web process as Streamlit's own client does.

They open pages, wait, type a text that nobody else has, and press Run. The answer's own tokens are
read from the chart of its tokens and compared with what was sent.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

THINK = 5.0  # seconds between an answer and the next press, on average
PATIENCE = 120.0  # seconds for an answer
PAGES = ("overview", "layers", "experts", "clustering")
SHARE_OF_PROMPTS = 0.8
BUSY = ("others wait already", "The model was busy", "requests of yours wait")
WORDS = (
    "grey ships harbour winter lantern quiet captain letter garden bridge silver market kitchen "
    "forest copper window morning stone river thunder candle meadow anchor ladder mirror orchard"
).split()
DONE = 0  # how a draw of the page ended: as it should


@dataclass
class Seen:
    """What people met.

    Attributes:
        seconds: of each answer, by "prompt" or a page's name.
        refused: prompts that were sent away.
        mixed: answers with tokens that were not sent.
        failed: what went wrong otherwise, in a few words each.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    refused: int = 0
    mixed: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def prompts(self) -> list[float]:
        return self.seconds["prompt"]

    def of_pages(self) -> list[float]:
        """Seconds of all pages."""
        return [s for name, all_ in self.seconds.items() if name != "prompt" for s in all_]


@dataclass
class Draw:
    """One answer of the server: what stands on the page after a press.

    Attributes:
        boxes: ids of text boxes; buttons: ids of buttons; both by the end of their ids.
        strip: the tokens of the chart of tokens.
        errors: texts of error boxes, and of exceptions.
    """

    boxes: dict[str, str] = field(default_factory=dict)
    buttons: dict[str, str] = field(default_factory=dict)
    strip: bytes = b""
    errors: list[str] = field(default_factory=list)

    def take(self, element: Any) -> None:
        """Take in one element of the page."""
        kind = element.WhichOneof("type")
        if kind == "text_area":
            self.boxes[_key(element.text_area.id)] = element.text_area.id
        elif kind == "button":
            self.buttons[_key(element.button.id)] = element.button.id
        elif kind == "alert" and element.alert.format == element.alert.ERROR:
            self.errors.append(element.alert.body)
        elif kind == "exception":
            self.errors.append(f"{element.exception.type}: {element.exception.message}")
        elif kind == "vega_lite_chart" and element.vega_lite_chart.id.endswith("-token_strip"):
            self.strip = element.vega_lite_chart.datasets[0].data.data


def _key(identity: str) -> str:
    """The part of a widget's id that does not change: $$ID-<hash>-<key>."""
    return identity.split("-", 2)[-1]


def letters(text: str) -> str:
    """Letters and digits of a text: what its tokens must have too."""
    return "".join(c for c in text if c.isalnum()).lower()


def shows(strip: bytes, text: str) -> bool:
    """Whether a chart's rows have the tokens of a text, one after the other."""
    if not strip:
        return False
    rows = pa.ipc.open_stream(strip).read_all()
    wanted = letters(text)
    for name in rows.column_names:
        if pa.types.is_string(rows[name].type) or pa.types.is_large_string(rows[name].type):
            if letters("".join(map(str, rows[name].to_pylist()))) == wanted:
                return True
    return False


class Person:
    """One tab.

    Args:
        number: of the person.
        address: host and port of the web process.
        seen: is told what happens.
        ids: whether prompts are token ids, for a model without a tokenizer.
    """

    def __init__(self, number: int, address: str, seen: Seen, *, ids: bool = False) -> None:
        self.number, self.address, self.seen, self.ids = number, address, seen, ids
        self._random = random.Random(number)
        self._asked = 0

    async def use(self, seconds: float, think: float = THINK) -> None:
        """Open the live page and use the app for so long."""
        end = time.monotonic() + seconds
        await asyncio.sleep(self._random.random() * min(think, seconds))
        url = f"ws://{self.address}/_stcore/stream"
        try:
            async with connect(
                url,
                subprotocols=["streamlit"],  # type: ignore[list-item]
                origin=f"http://{self.address}",  # type: ignore[arg-type]
                max_size=None,
                ping_interval=None,
                open_timeout=PATIENCE,
            ) as socket:
                drawn = await self._open(socket, "live_routing")
                while True:
                    if self._random.random() < SHARE_OF_PROMPTS:
                        drawn = await self._prompt(socket, drawn)
                    else:
                        await self._open(socket, self._random.choice(PAGES))
                        drawn = await self._open(socket, "live_routing")
                    pause = think * (0.5 + self._random.random())
                    if time.monotonic() + pause >= end:
                        return
                    await asyncio.sleep(pause)
        except (OSError, WebSocketException, TimeoutError) as error:
            self.seen.failed.append(type(error).__name__)

    async def _open(self, socket: ClientConnection, page: str) -> Draw:
        began = time.monotonic()
        drawn = await self._draw(socket, page, {})
        self.seen.seconds[page].append(time.monotonic() - began)
        self.seen.failed += drawn.errors
        return drawn

    async def _prompt(self, socket: ClientConnection, drawn: Draw) -> Draw:
        """Send a text and read its answer, which is two draws: the run, and its result."""
        self._asked += 1
        text = self._text()
        box = drawn.boxes.get("prompt")
        run = next((i for key, i in drawn.buttons.items() if key.endswith("-Run")), None)
        if box is None or run is None:
            self.seen.failed.append("no form for a prompt")
            return await self._open(socket, "live_routing")
        began = time.monotonic()
        after = await self._draw(socket, "live_routing", {box: text, run: True})
        if any(word in error for error in after.errors for word in BUSY):
            self.seen.refused += 1
            return after
        if after.errors or not after.strip:
            self.seen.failed += after.errors or ["no answer"]
            return after
        self.seen.prompts.append(time.monotonic() - began)
        if not shows(after.strip, text):
            self.seen.mixed += 1
        return after

    def _text(self) -> str:
        """A text of its own: the numbers say whose and which."""
        if self.ids:
            found = [self._random.randrange(3, 500) for _ in range(8)]
            return ", ".join(map(str, found))
        words = " ".join(self._random.choices(WORDS, k=16))
        return f"Person {self.number} writes line {self._asked}: {words}."

    async def _draw(
        self, socket: ClientConnection, page: str, widgets: Mapping[str, str | bool]
    ) -> Draw:
        """Ask for a page with some widgets changed, and read until it is complete."""
        asked = BackMsg()
        asked.rerun_script.page_name = page
        for identity, value in widgets.items():
            one = asked.rerun_script.widget_states.widgets.add()
            one.id = identity
            if isinstance(value, str):
                one.string_value = value
            else:
                one.trigger_value = value
        await socket.send(asked.SerializeToString())
        drawn = Draw()
        async with asyncio.timeout(PATIENCE):
            while True:
                data = await socket.recv()
                message = ForwardMsg()
                message.ParseFromString(data)  # type: ignore[arg-type]
                kind = message.WhichOneof("type")
                if kind == "new_session":
                    drawn = Draw(errors=drawn.errors)
                elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
                    drawn.take(message.delta.new_element)
                elif kind == "script_finished" and message.script_finished == DONE:
                    return drawn


async def use(
    addresses: Sequence[str], n_people: int, seconds: float, *, ids: bool, think: float = THINK
) -> Seen:
    """So many people use an app for so long; each stays with one web process, in turn."""
    seen = Seen()
    people = [
        Person(number, addresses[number % len(addresses)], seen, ids=ids)
        for number in range(n_people)
    ]
    await asyncio.gather(*(person.use(seconds, think) for person in people))
    return seen
