"""A `config.json` from a stranger, asked key by key: each answer is checked, or named as wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grok.config import MAX_FACTOR, MAX_LAYERS, MAX_SIZE
from grok.errors import ConfigError, plain

MISSING: Any = object()


def shown(value: Any) -> str:
    """A value from a config for a message."""
    return f"'{plain(value, 60)}'" if isinstance(value, str) else plain(json.dumps(value), 60)


@dataclass(frozen=True)
class Settings:
    """The members of one JSON object.

    A member that is null counts as one that is not there.

    Attributes:
        values: by key.
        where: the file, for messages.
    """

    values: Mapping[str, Any]
    where: str

    def error(self, key: str, expected: str) -> ConfigError:
        """What is wrong with a key: where, found, expected, and what to do."""
        found = f"found {shown(self.values[key])}" if key in self.values else "not there"
        return ConfigError(
            f"{self.where}: {key}: {found}; expected {expected}. Get the model's own config.json."
        )

    def has(self, key: str) -> bool:
        """Whether a key is there and not null."""
        return self.values.get(key) is not None

    def _value(self, key: str, default: Any, expected: str) -> Any:
        found = self.values.get(key)
        if found is None:
            if default is MISSING:
                raise self.error(key, expected)
            return default
        return found

    def whole(
        self, *keys: str, default: Any = MISSING, least: int = 1, most: int = MAX_SIZE
    ) -> Any:
        """A whole number under the first of some keys that is there.

        Raises:
            ConfigError: there is none and no default, or it is outside its range.
        """
        key = next((key for key in keys if self.has(key)), keys[0])
        expected = f"a whole number from {least} to {most}"
        found = self._value(key, default, expected)
        if found is default and found is not MISSING:
            return found
        if not isinstance(found, int) or isinstance(found, bool) or not least <= found <= most:
            raise self.error(key, expected)
        return found

    def layers(self) -> int:
        """Decoder layers."""
        return int(self.whole("num_hidden_layers", most=MAX_LAYERS))

    def number(self, key: str, default: Any = MISSING, *, positive: bool = True) -> Any:
        """A finite number; with `positive`, above 0.

        Raises:
            ConfigError: there is none and no default, or it is outside its range.
        """
        expected = f"a number {'above 0 and ' if positive else ''}up to {MAX_FACTOR:g}"
        found = self._value(key, default, expected)
        if found is default and found is not MISSING:
            return found
        if (
            not isinstance(found, int | float)
            or isinstance(found, bool)
            or not math.isfinite(found)
            or abs(found) > MAX_FACTOR * 1e3
            or (positive and found <= 0)
        ):
            raise self.error(key, expected)
        return float(found)

    def flag(self, key: str, default: bool) -> bool:
        """True or false.

        Raises:
            ConfigError: anything else.
        """
        found = self._value(key, default, "true or false")
        if not isinstance(found, bool):
            raise self.error(key, "true or false")
        return found

    def text(self, key: str, default: str) -> str:
        """A word.

        Raises:
            ConfigError: anything else.
        """
        found = self._value(key, default, "a text")
        if not isinstance(found, str):
            raise self.error(key, "a text")
        return found

    def numbers(self, key: str, size: int) -> tuple[float, ...]:
        """A list of so many positive numbers.

        Raises:
            ConfigError: anything else.
        """
        expected = f"a list of {size} positive numbers"
        found = self._value(key, MISSING, expected)
        if not isinstance(found, list) or len(found) != size:
            raise self.error(key, expected)
        own = Settings({str(i): one for i, one in enumerate(found)}, f"{self.where}: {key}")
        return tuple(float(own.number(str(i))) for i in range(size))

    def indexes(self, key: str, below: int) -> tuple[int, ...]:
        """A list of whole numbers from 0; () where there is none.

        Raises:
            ConfigError: anything else, or a number of `below` or more.
        """
        expected = f"a list of numbers from 0 to {below - 1}"
        found = self._value(key, [], expected)
        if not isinstance(found, list) or not all(
            isinstance(n, int) and not isinstance(n, bool) and 0 <= n < below for n in found
        ):
            raise self.error(key, expected)
        return tuple(found)

    def part(self, key: str) -> Settings:
        """The object under a key; an empty one where there is none.

        Raises:
            ConfigError: something else is there.
        """
        found = self._value(key, {}, "an object")
        if not isinstance(found, dict):
            raise self.error(key, "an object")
        return Settings(found, f"{self.where}: {key}")

    def must_be(self, key: str, wanted: Any, *, otherwise: str) -> None:
        """Refuses a key that is there with another value.

        Args:
            key: of the setting.
            wanted: the one value that is computed here.
            otherwise: what is not supported, for the message.

        Raises:
            ConfigError: another value.
        """
        if self.has(key) and self.values[key] != wanted:
            raise ConfigError(
                f"{self.where}: {key}: found {shown(self.values[key])}; expected "
                f"{wanted!r}. {otherwise} is not supported here."
            )

    def ends(self, vocab_size: int) -> tuple[int, ...]:
        """Ids that end a text: one, several or none.

        Raises:
            ConfigError: no ids of the vocabulary.
        """
        found = self.values.get("eos_token_id")
        several = found if isinstance(found, list) else [] if found is None else [found]
        if not all(
            isinstance(n, int) and not isinstance(n, bool) and 0 <= n < vocab_size for n in several
        ):
            raise self.error("eos_token_id", f"ids from 0 to {vocab_size - 1}")
        return tuple(several)
