"""Files from other tools, read without trust: sizes are checked before memory is taken.

No JAX here, and nothing that is read is executed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import yaml
from safetensors.numpy import save

from grok.checkpoints.safetensors import FileRanges, parse_json, read_header, read_tensor
from grok.errors import CheckpointError, GrokError, plain
from grok.files import write_whole

MOST_TEXT = 16 * 2**20
MOST_YAML = 2**20
MOST_VALUES = 2**33  # of one dictionary: 32 GB of float32
Shape = tuple[int, ...]


def refused(where: object, found: str, expected: str, advice: str) -> CheckpointError:
    """The error of a file, in four parts."""
    return CheckpointError(f"{where}: {found}; expected {expected}. {advice}")


def text_of(file: Path, most: int = MOST_TEXT) -> bytes:
    """The bytes of a small file.

    Raises:
        CheckpointError: it is not there, or larger than `most` bytes.
    """
    try:
        size = file.stat().st_size
        if size > most:
            raise refused(
                file, f"{size:,} bytes", f"at most {most:,}", "This is another kind of file."
            )
        return file.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{file}: {error.strerror}; expected a file. Name the folder that holds it."
        ) from error


def config_of(file: Path) -> dict[str, Any]:
    """The JSON object of a small file."""
    return parse_json(text_of(file), str(file))


class Values:
    """Values of a config from a stranger.

    Args:
        where: the file, for messages.
        values: of its object.
    """

    def __init__(self, where: Path, values: Mapping[str, Any]) -> None:
        self.where, self._values = where, values

    def wrong(self, name: str, expected: str, advice: str) -> CheckpointError:
        """The error of a value."""
        found = plain(json.dumps(self._values.get(name))[:80], 60)
        return refused(self.where, f"{name} is {found}", expected, advice)

    def given(self, name: str) -> bool:
        """True where there is such a value, and it is not 0."""
        return bool(self._values.get(name))

    def size(self, name: str) -> int:
        """A whole number from 1."""
        value = self._values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
            raise self.wrong(name, "a whole number from 1", "The config was changed by hand.")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false; `default` where it is missing."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false", "The config was changed by hand.")
        return value

    def text(self, name: str, default: str = "") -> str:
        """A text; `default` where it is missing."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, str) or len(value) > 1000:
            raise self.wrong(name, "a text", "The config was changed by hand.")
        return value

    def part(self, name: str) -> dict[str, Any]:
        """An object; an empty one where it is missing."""
        value = self._values.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self.wrong(name, "an object", "The config was changed by hand.")
        return value


class Tensors:
    """The tensors of a safetensors file, whose header alone was read."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._source = FileRanges(file)
        self._found = read_header(self._source)

    @property
    def names(self) -> set[str]:
        """Names of the tensors."""
        return set(self._found)

    def shape(self, name: str) -> Shape:
        """Shape of a tensor.

        Raises:
            CheckpointError: there is none.
        """
        if name not in self._found:
            raise self._missing(name)
        return self._found[name].shape

    def _missing(self, name: str) -> CheckpointError:
        there = ", ".join(plain(one, 40) for one in sorted(self._found)[:12])
        return refused(
            self.file, f"no tensor {name} among {there or 'none'}", "it",
            "Name the kind of file that this is, or copy it again.",
        )  # fmt: skip

    def check(self, expected: Mapping[str, Shape], reasons: Mapping[str, str]) -> None:
        """Refuses names and shapes other than these, before anything is read.

        Args:
            expected: shapes by name.
            reasons: why some tensor that other files have cannot be taken, by its name.
        """
        for name in self._found:
            if name not in expected:
                why = reasons.get(name, "Nothing here says what it would change.")
                raise refused(
                    self.file, f"a tensor {plain(name, 60)}", ", ".join(sorted(expected)), why
                )
        for name, shape in expected.items():
            if self.shape(name) != shape:
                raise refused(
                    self.file, f"{name} has shape {self.shape(name)}", f"{shape}",
                    "The config and the tensors do not belong together; copy both again.",
                )  # fmt: skip

    def read(self, name: str) -> np.ndarray:
        """A tensor, float32.

        Raises:
            CheckpointError: it is stored in a form that is not read, or holds what is no number.
        """
        if name not in self._found:
            raise self._missing(name)
        values = read_tensor(self._source, name, self._found[name])
        if not np.isfinite(values).all():
            raise refused(
                self.file, f"{name} has values that are no numbers, or beyond float32",
                "finite ones", "The training had failed; use an earlier state of it.",
            )  # fmt: skip
        return values


def check_amount(where: Path, values: int) -> None:
    """Refuses a dictionary of so many values that no machine is meant to hold them at once."""
    if values > MOST_VALUES:
        raise refused(
            where, f"{values:,} values", f"at most {MOST_VALUES:,}", "Take fewer layers of it."
        )


def write_tensors(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file of float32 whole."""
    content = save({name: np.ascontiguousarray(one, "<f4") for name, one in arrays.items()})
    _written(file, content)


def write_json(file: Path, values: Any, indent: int | None = 1) -> None:
    """Writes JSON whole."""
    _written(file, json.dumps(values, indent=indent, allow_nan=False).encode())


def write_text(file: Path, text: str) -> None:
    """Writes a text whole."""
    _written(file, text.encode())


def _written(file: Path, content: bytes | Callable[[IO[bytes]], object]) -> None:
    try:
        write_whole(file, content)
    except OSError as error:
        raise GrokError(f"{file}: not written ({error.strerror}).") from error


def flat_yaml(file: Path) -> dict[str, Any]:
    """Texts and lists of texts of a small YAML file; every value stays the text that it is.

    Raises:
        CheckpointError: it has something deeper than a list, or is no YAML.
    """
    try:
        # This loader makes texts, lists and objects, whatever tags the file has.
        found = yaml.load(text_of(file, MOST_YAML), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        told = plain(" ".join(str(error).split()), 200) or "nested too deep"
        raise refused(file, told, "YAML", "Copy it again.") from error
    named = found.items() if isinstance(found, dict) else [("", found)]
    for name, value in named:
        flat = [name, *(value if isinstance(value, list) else [value])]
        if not name or not all(isinstance(one, str) for one in flat):
            raise refused(
                file, f"{plain(str(name), 40)!r} has nested parts", "a text or a list of texts",
                "Write the config without nested parts.",
            )  # fmt: skip
    return dict(named)


def yaml_of(values: Mapping[str, str | Sequence[str]]) -> str:
    """Texts and lists of texts as YAML."""
    return str(yaml.safe_dump(dict(values), sort_keys=False, width=2**20))
