"""Byte ranges of a model's files on the Hugging Face Hub, without downloading the files.

Nothing is kept on disk: of a model of hundreds of GB the headers of its files and the routers'
own bytes come over the network: 3 MB of Mixtral, 227 MB of DeepSeek-V3's 685 GB, which has 256
experts in each of 58 layers. A range whose connection breaks goes on where it stopped.
"""

from __future__ import annotations

import re
import time

from grok.checkpoints.hub.access import AGAIN, TIMEOUT, HubCommit, explained, is_transport
from grok.errors import CheckpointError, plain

MOST_AT_ONCE = 2**30  # bytes of one range
RANGES_AT_ONCE = 8  # over one connection each
TRIES = 5  # connections for one range
WAIT = 0.5  # seconds before the second of them; each further wait is twice the last


class HubFiles:
    """The files at the top of a repository, as `grok.checkpoints.model_files.ModelFiles`.

    Attributes:
      where: the repository.
      name: what to call the model where its config does not say.
    """

    at_once = RANGES_AT_ONCE

    def __init__(self, hub: HubCommit) -> None:
        self.hub = hub
        self.where = hub.repository
        self.name = hub.repository

    def names(self) -> list[str]:
        return sorted(name for name in self.hub.sizes if "/" not in name)

    def open(self, name: str) -> HubRanges:
        if name not in self.hub.sizes:
            raise CheckpointError(f"{self.where}: there is no {plain(name, 80)} in it.")
        return HubRanges(self.hub, name)


class HubRanges:
    """The byte ranges of one file, as `grok.checkpoints.safetensors.ByteRanges`."""

    def __init__(self, hub: HubCommit, name: str) -> None:
        self.hub, self.name = hub, name
        self.size = hub.sizes[name]

    @property
    def where(self) -> str:
        return f"{self.hub.repository}/{self.name}"

    def read(self, offset: int, length: int) -> bytes:
        if length == 0:
            return b""
        if length > MOST_AT_ONCE or offset < 0 or offset + length > self.size:
            raise CheckpointError(
                f"{self.where}: {length:,} bytes at {offset:,} of {self.size:,}; expected a range "
                "within the file. Its header and its size disagree."
            )
        found = bytearray()
        with explained(self.hub.repository, self.hub.commit[:12]):
            for attempt in range(TRIES):
                try:
                    self._ask(offset + len(found), offset + length, found)
                    break
                except Exception as error:  # a connection that broke; what came is kept
                    if attempt + 1 == TRIES or not is_transport(error):
                        raise
                    time.sleep(WAIT * 2**attempt)
        if len(found) != length:
            raise CheckpointError(
                f"{self.where}: {len(found):,} of {length:,} bytes at {offset:,} came. {AGAIN}"
            )
        return bytes(found)

    def _ask(self, start: int, stop: int, found: bytearray) -> None:
        """Adds the bytes from start to stop to what was found, as many as come."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status
        from huggingface_hub.utils import http_stream_backoff as asked

        url = hf_hub_url(
            self.hub.repository,
            self.name,
            revision=self.hub.commit,
            endpoint=self.hub.options["endpoint"],
        )
        headers = {
            **build_hf_headers(token=self.hub.options["token"]),
            "Range": f"bytes={start}-{stop - 1}",
            "Accept-Encoding": "identity",
        }
        # Only a busy server is asked again in here: what raises inside of the context would
        # start the request anew, and the bytes that came would come twice.
        with asked(
            "GET",
            url,
            retry_on_exceptions=(),
            headers=headers,
            timeout=TIMEOUT,
            follow_redirects=True,
        ) as answer:
            hf_raise_for_status(answer)
            came = answer.headers.get("Content-Range", "")
            if answer.status_code != 206 or not re.match(rf"bytes {start}-{stop - 1}/", came):
                raise CheckpointError(
                    f"{self.where}: the server sent {plain(came, 60) or 'the whole file'} for "
                    f"bytes {start} to {stop - 1}; expected that range alone. Use another server, "
                    "or fetch the files and use --safetensors."
                )
            most = len(found) + stop - start
            for part in answer.iter_bytes():
                found += part
                if len(found) > most:
                    break
