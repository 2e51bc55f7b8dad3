"""Text to token ids and back, by the `tokenizer.json` of a Hugging Face folder.

Encoding is the `tokenizers` package's own. Pieces are text: of a byte-level vocabulary, whose
tokens may hold parts of a character, the bytes of neighbours are put together.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from grok.errors import TokenizerError, check_unicode, plain

MAX_BYTES = 2**27  # the largest published ones have some 30 MB
SPACE = "▁"  # how a space is shown, as SentencePiece does


class JsonTokenizer:
    """A tokenizer in one JSON file; what a text begins or ends with is added as the file says.

    Raises:
        TokenizerError: the file is missing, is no tokenizer, or has more tokens than the model
            has embeddings.
    """

    def __init__(self, file: Path, vocab_size: int) -> None:
        from tokenizers import Tokenizer

        try:
            if file.stat().st_size > MAX_BYTES:
                raise TokenizerError(f"{file}: over {MAX_BYTES:,} bytes; expected a tokenizer.")
            text = file.read_text(encoding="utf-8")
            self._model = Tokenizer.from_str(text)
            parts = json.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            raise TokenizerError(f"{file}: cannot be read ({plain(str(error), 100)}).") from None
        except TokenizerError:
            raise
        except Exception as error:  # the package raises Exception itself
            raise TokenizerError(f"{file}: not a tokenizer ({plain(str(error), 100)}).") from None
        self._bytes = _is_byte_level(parts.get("decoder"))
        self.n_pieces = int(self._model.get_vocab_size(with_added_tokens=True))
        highest = max(self._model.get_vocab(with_added_tokens=True).values(), default=-1)
        if highest >= vocab_size:
            raise TokenizerError(
                f"{file}: has ids up to {highest}, but the model embeds {vocab_size} tokens. "
                "Use the tokenizer that belongs to this checkpoint."
            )
        self._added = frozenset(self._model.get_added_tokens_decoder())

    def encode(self, text: str) -> np.ndarray:
        """Token ids [T] int32, with the tokens that the file adds to every text.

        Raises:
            PromptError: the text holds half a surrogate pair, which is no Unicode text.
        """
        check_unicode(text)
        return np.asarray(self._model.encode(text).ids, dtype=np.int32)

    def piece(self, token: int) -> str:
        """The piece of one id alone; ids without one are written #id."""
        return self.pieces([token])[0]

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """The pieces of a row of ids, "▁" for a space.

        A character whose bytes lie in several tokens is shown by the last of them; the others
        show their bytes, such as <0xE2>.
        """
        ids = [int(token) for token in tokens]
        found = [self._model.id_to_token(token) for token in ids]
        if not self._bytes:
            return [f"#{i}" if one is None else str(one) for i, one in zip(ids, found, strict=True)]
        pieces: list[str] = []
        open_ = b""  # bytes of a character that has begun and is not whole
        for token, one in zip(ids, found, strict=True):
            own = None if one is None or token in self._added else _bytes_of(one)
            if own is None:
                pieces.append(f"#{token}" if one is None else str(one).replace(" ", SPACE))
                open_ = b""
                continue
            piece, open_ = _shown(open_, own)
            pieces.append(piece)
        return pieces

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text of ids, special ones included."""
        return str(self._model.decode([int(t) for t in tokens], skip_special_tokens=False))


def _is_byte_level(decoder: Any) -> bool:
    """Whether the tokens of a tokenizer are written as bytes, each by a letter of its own."""
    if not isinstance(decoder, dict):
        return False
    if decoder.get("type") == "Sequence":
        return any(_is_byte_level(one) for one in decoder.get("decoders", []))
    return decoder.get("type") == "ByteLevel"


@lru_cache(maxsize=1)
def _letters() -> dict[str, int]:
    """The byte that each letter of a byte-level vocabulary stands for: printable ones themselves,
    the others moved up to the letters from 256 on, in order."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    found = {chr(byte): byte for byte in kept}
    moved = [byte for byte in range(256) if byte not in kept]
    return found | {chr(256 + i): byte for i, byte in enumerate(moved)}


def _bytes_of(token: str) -> bytes | None:
    """The bytes of a token; None where it is written in other letters."""
    letters = _letters()
    try:
        return bytes(letters[letter] for letter in token)
    except KeyError:
        return None


def _shown(before: bytes, own: bytes) -> tuple[str, bytes]:
    """A token's text, of its bytes and those of a character that was begun before it; and the
    bytes of the character that it leaves unfinished."""
    parts, left = [], before + own
    skipped = len(before)  # shown already, unless the character becomes whole here
    while left:
        size = _length(left[0])
        try:
            letter = left[:size].decode("utf-8")
        except UnicodeDecodeError as error:
            if "unexpected end" in error.reason and len(left) < size:
                parts += [f"<0x{byte:02X}>" for byte in left[skipped:]]
                return "".join(parts), left
            if skipped:
                skipped -= 1
            else:
                parts.append(f"<0x{left[0]:02X}>")
            left = left[1:]
            continue
        parts.append(SPACE if letter == " " else letter)
        left, skipped = left[size:], 0
    return "".join(parts), b""


def _length(first: int) -> int:
    """Bytes of a character by its first."""
    return 1 if first < 0xC0 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
