"""Byte ranges of a model's files on the Hugging Face Hub, without downloading the files.

Nothing is kept on disk: of a model of hundreds of GB the headers of its files and the
routers' own bytes come over the network, some tens of MB.
"""

from __future__ import annotations

import re

from lens.errors import LensError
from lens.hub_access import AGAIN, TIMEOUT, HubCommit, explained
from lens.npz import plain

MOST_AT_ONCE = 2**30  # bytes of one range


class HubFiles:
    """The files at the top of a repository, as `lens.model_files.ModelFiles`.

    Attributes:
      where: the repository.
      name: what to call the model where its config does not say.
    """

    def __init__(self, hub: HubCommit) -> None:
        self.hub = hub
        self.where = hub.repository
        self.name = hub.repository

    def names(self) -> list[str]:
        return sorted(name for name in self.hub.sizes if "/" not in name)

    def open(self, name: str) -> HubRanges:
        if name not in self.hub.sizes:
            raise LensError(f"{self.where}: there is no {plain(name, 80)} in it.")
        return HubRanges(self.hub, name)


class HubRanges:
    """The byte ranges of one file, as `lens.safetensors.ByteRanges`."""

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
            raise LensError(
                f"{self.where}: {length:,} bytes at {offset:,} of {self.size:,}; expected a range "
                "within the file. Its header and its size disagree."
            )
        with explained(self.hub.repository, self.hub.commit[:12]):
            return self._asked(offset, length)

    def _asked(self, offset: int, length: int) -> bytes:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, hf_raise_for_status
        from huggingface_hub.utils import http_stream_backoff as asked

        url = hf_hub_url(
            self.hub.repository,
            self.name,
            revision=self.hub.commit,
            endpoint=self.hub.options["endpoint"],
        )
        last = offset + length - 1
        headers = {
            **build_hf_headers(token=self.hub.options["token"]),
            "Range": f"bytes={offset}-{last}",
            "Accept-Encoding": "identity",
        }
        trouble: Exception | None = None
        came, status, found = "", 0, bytearray()
        with asked("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True) as answer:
            try:  # the context asks anew where it sees an error, and then does not end
                hf_raise_for_status(answer)
                came, status = answer.headers.get("Content-Range", ""), answer.status_code
                served = status == 206 and re.match(rf"bytes {offset}-{last}/", came)
                for part in answer.iter_bytes() if served else ():
                    found += part
                    if len(found) > length:
                        break
            except Exception as error:
                trouble = error
        if trouble is not None:
            raise trouble
        if not served:
            raise LensError(
                f"{self.where}: the server sent {plain(came, 60) or 'the whole file'} for bytes "
                f"{offset} to {last}; expected that range alone. Use another server, or fetch the "
                "files and use --safetensors."
            )
        if len(found) != length:
            raise LensError(
                f"{self.where}: {len(found):,} of {length:,} bytes at {offset:,} came. {AGAIN}"
            )
        return bytes(found)
