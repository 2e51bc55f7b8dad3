"""Text to token ids and back, by the tokenizer that lies beside a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from grok.errors import TokenizerError, check_unicode, plain


class Tokenizer(Protocol):
    """What every kind of tokenizer does.

    Attributes:
        n_pieces: ids that have a piece.
    """

    n_pieces: int

    def encode(self, text: str) -> np.ndarray:
        """Token ids [T] int32.

        Raises:
            PromptError: no Unicode text.
        """
        ...

    def piece(self, token: int) -> str:
        """The piece of one id, "▁" for a space; ids without one are written #id."""
        ...

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """The pieces of a row of ids."""
        ...

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text of ids."""
        ...


def open_tokenizer(file: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer in a file: `tokenizer.json`, or else a SentencePiece model.

    Args:
        file: of the tokenizer.
        vocab_size: tokens that the model embeds.

    Raises:
        TokenizerError: the file is missing, is no tokenizer, or is another model's.
    """
    if file.suffix == ".json":
        from grok.checkpoints.tokenizer_json import JsonTokenizer

        return JsonTokenizer(file, vocab_size)
    return PieceTokenizer(file, vocab_size)


class PieceTokenizer:
    """A SentencePiece model. Encoding adds no beginning-of-sequence token, as in Grok-1.

    Raises:
        TokenizerError: the file is missing, is no SentencePiece model, or has more pieces
            than the model has embeddings.
    """

    def __init__(self, file: Path, vocab_size: int) -> None:
        import sentencepiece

        if not file.is_file():
            raise TokenizerError(f"{file}: there is no such tokenizer file.")
        try:
            model = file.read_bytes()
            if not model:  # SentencePiece would take it for a model of no pieces
                raise TokenizerError(f"{file}: not a SentencePiece model (the file is empty).")
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, OSError, UnicodeDecodeError) as error:  # the last of its message
            said = plain(str(error), 100)
            raise TokenizerError(f"{file}: not a SentencePiece model ({said}).") from None
        self.n_pieces = int(self._model.get_piece_size())
        if self.n_pieces > vocab_size:
            raise TokenizerError(
                f"{file}: has {self.n_pieces} pieces, but the model embeds {vocab_size} tokens. "
                "Use the tokenizer that belongs to this checkpoint."
            )

    def encode(self, text: str) -> np.ndarray:
        """Token ids [T] int32.

        Raises:
            PromptError: the text holds half a surrogate pair, which is no Unicode text.
        """
        check_unicode(text)
        return np.asarray(self._model.encode(text), dtype=np.int32)

    def piece(self, token: int) -> str:
        """The piece of one id, "▁" for a space; ids without one are written #id."""
        return str(self._model.id_to_piece(token)) if token < self.n_pieces else f"#{token}"

    def pieces(self, tokens: Iterable[int]) -> list[str]:
        """The pieces of ids."""
        return [self.piece(int(token)) for token in tokens]

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text of ids; ids without a piece are left out."""
        return str(self._model.decode([int(t) for t in tokens if int(t) < self.n_pieces]))
