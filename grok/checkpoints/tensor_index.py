"""Which of a model's files holds which tensor, from its index or from the files' headers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grok.checkpoints.model_files import ModelFiles
from grok.checkpoints.prefetch import prefetch
from grok.checkpoints.routing.names import find_routers, place_of
from grok.checkpoints.safetensors import MAX_HEADER, ByteRanges, Entry, parse_json, read_header
from grok.errors import CheckpointError, plain

MAX_TENSORS = 1_000_000
INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"(?P<stem>.+-)(?P<part>[0-9]{1,6})-of-(?P<total>[0-9]{1,6})\.safetensors")


@dataclass
class Tensors:
    """The tensors of a model: which file each is in, and what it takes to read it.

    Attributes:
      files: where they are.
      there: the files that are there.
      of: the file of each tensor.
      twice: of those that are in two files, the second.
    """

    files: ModelFiles
    there: Sequence[str]
    of: dict[str, str]
    twice: Mapping[str, str] = field(default_factory=dict)
    _headers: dict[str, dict[str, Entry]] = field(default_factory=dict)
    _sources: dict[str, ByteRanges] = field(default_factory=dict)

    def check_there(self, names: Iterable[str]) -> None:
        """Refuse to go on where a file that holds one of these tensors is missing."""
        missing = sorted({self.of[name] for name in names}.difference(self.there))
        if missing:
            named = ", ".join(plain(name, 80) for name in missing[:3])
            more = f" and {len(missing) - 3} more" if missing[3:] else ""
            raise CheckpointError(
                f"{self.files.where}: {len(missing)} of the files that hold routers and the norms "
                f"before them are not there: {named}{more}. Complete the download; other files "
                "are not needed."
            )

    def header(self, file: str) -> tuple[ByteRanges, dict[str, Entry]]:
        """A file and its tensors, read once."""
        if file not in self._headers:
            self._sources[file] = self.files.open(file)
            self._headers[file] = read_header(self._sources[file])
        return self._sources[file], self._headers[file]

    def read_headers(self, files: Iterable[str]) -> None:
        """Headers of these files, several at a time where that is faster."""
        wanted = [file for file in dict.fromkeys(files) if file not in self._headers]
        for _ in prefetch(self.header, wanted, self.files.at_once):
            pass

    def entry(self, name: str) -> tuple[ByteRanges, Entry]:
        """Where a tensor lies."""
        file = self.of[name]
        if name in self.twice:
            raise CheckpointError(
                f"{self.files.where}: tensor '{plain(name, 80)}' is in {plain(file, 80)} and in "
                f"{plain(self.twice[name], 80)}; expected the files of one model."
            )
        source, header = self.header(file)
        entry = header.get(name)
        if entry is None:
            raise CheckpointError(
                f"{source.where}: the index says that '{plain(name, 80)}' is in it, and it is not. "
                "Download index and files again, from one revision."
            )
        return source, entry


def find_tensors(files: ModelFiles, there: Sequence[str]) -> Tensors:
    """By the index where there is one, else by the headers of all files."""
    if INDEX in there:
        return _indexed(files, there)
    names = [name for name in there if name.endswith(".safetensors")]
    others = [name for name in there if not name.endswith(".json")]
    if not names and len(others) == 1:
        names = others  # one file, of whatever name
    if not names:
        raise CheckpointError(
            f"{files.where}: no .safetensors file in it. Choose the folder of the model."
        )
    _check_shards(files.where, names)
    twice: dict[str, str] = {}
    tensors = Tensors(files, there, {}, twice)
    tensors.read_headers(names)
    for name in names:
        for tensor in tensors.header(name)[1]:
            if tensors.of.setdefault(tensor, name) != name:
                twice[tensor] = name
        if len(tensors.of) + len(twice) > MAX_TENSORS:
            raise CheckpointError(
                f"{files.where}: more than {MAX_TENSORS:,} tensors; expected one model. Keep the "
                "files of one in the folder."
            )
    return tensors


def _check_shards(where: str, names: Sequence[str]) -> None:
    """Refuse some of the files "model-00001-of-00019" where nothing says what the others hold."""
    parts: dict[tuple[str, str], set[int]] = {}
    for name in names:
        match = _SHARD.fullmatch(name)
        if match is not None:
            parts.setdefault((match["stem"], match["total"]), set()).add(int(match["part"]))
    for (stem, total), found in parts.items():
        n_missing = int(total) - len(found)
        if n_missing > 0:
            first = next(n for n in range(1, int(total) + 1) if n not in found)
            shown = f"{stem}{first:0{len(total)}}-of-{total}.safetensors"
            more = f" and {n_missing - 1} more" if n_missing > 1 else ""
            raise CheckpointError(
                f"{where}: of {int(total)} files {n_missing} are not there: "
                f"{plain(shown, 120)}{more}. Choose the folder with all of them, or put the "
                f"model's {INDEX} beside those that hold routers."
            )


def _indexed(files: ModelFiles, there: Sequence[str]) -> Tensors:
    place = f"{files.where}: {INDEX}"
    weight_map = read_json(files, INDEX).get("weight_map")
    if not isinstance(weight_map, Mapping) or not weight_map:
        raise CheckpointError(
            f"{place}: no weight_map in it; expected names of tensors and files. Download it again."
        )
    _, layers = find_routers(weight_map)
    places = {names.place for names in layers.values()}
    of = {}
    for tensor, file in weight_map.items():
        if place_of(tensor) not in places:
            continue
        if not isinstance(file, str) or not file or Path(file).name != file or "\\" in file:
            raise CheckpointError(
                f"{place}: '{plain(tensor, 80)}' is said to be in '{plain(str(file), 80)}'; "
                "expected the name of a file in the same folder. Check where the folder comes from."
            )
        of[tensor] = file
    return Tensors(files, there, of)


def read_json(files: ModelFiles, name: str) -> dict[str, Any]:
    """One of a model's JSON files, if it is of a size that makes sense."""
    source = files.open(name)
    if source.size > MAX_HEADER:
        raise CheckpointError(
            f"{source.where}: {source.size:,} bytes; expected a JSON file of at most "
            f"{MAX_HEADER:,}. Download it again."
        )
    return parse_json(source.read(0, source.size), source.where)
