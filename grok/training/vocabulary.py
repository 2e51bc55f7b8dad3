"""The bundled model's SentencePiece vocabulary, made with the settings of Grok-1's own.

Grok-1's tokenizer.model states how it was trained: byte-pair encoding with
byte fallback, no normalisation, a dummy prefix, digits one by one, and runs of
newlines, tabs and spaces as pieces of their own. The same here at a smaller
size, without its control symbols.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from grok.errors import GrokError
from grok.files import write_whole

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

SPECIAL_PIECES = ("[PAD]", "[BOS]", "[EOS]", "[UNK]")  # ids 0 to 3

# Fixed pieces: never merged with their neighbours, always matched longest first.
WHITESPACE_PIECES = (
    *("\n" * count for count in range(1, 5)),
    *("\t" * count for count in range(1, 3)),
    *(" " * count for count in range(2, 17)),
)

SAMPLE_CHARACTERS = 1_200_000  # of each domain
_CHUNK_CHARACTERS = 1000  # in UTF-8 below the trainer's longest sentence, 4192 bytes


def train_tokenizer(
    texts: Mapping[str, str],
    path: str | Path,
    vocab_size: int = 4096,
    seed: int = 0,
    *,
    sample_characters: int = SAMPLE_CHARACTERS,
) -> SentencePieceProcessor:
    """A SentencePiece vocabulary of the texts, written to `path`.

    Domains count alike: from each, chunks of whole lines are drawn at random
    until `sample_characters` are reached or the text is used up. Chunks keep
    their newlines, so that indentation is seen as it is in running text.

    Args:
        texts: Training text by domain (leave the held-out part out).
        path: Where the model goes; it appears whole or not at all.
        vocab_size: Pieces, special, byte and whitespace pieces included.
        seed: Same texts and seed, same bytes.
        sample_characters: The most characters taken of one domain.

    Returns:
        The processor, loaded.

    Raises:
        GrokError: The texts do not have enough different pieces for `vocab_size`.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sample(texts, seed, sample_characters),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            pad_piece=SPECIAL_PIECES[0],
            bos_piece=SPECIAL_PIECES[1],
            eos_piece=SPECIAL_PIECES[2],
            unk_piece=SPECIAL_PIECES[3],
            unk_surface=SPECIAL_PIECES[3],
            byte_fallback=True,
            character_coverage=0.9999,
            normalization_rule_name="identity",
            add_dummy_prefix=True,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            user_defined_symbols=[*WHITESPACE_PIECES, *"0123456789"],
            max_sentence_length=4192,
            input_sentence_size=0,
            shuffle_input_sentence=False,
            num_threads=2,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise GrokError(
            f"No vocabulary of {vocab_size} pieces could be made from {len(texts)} texts of "
            f"{sum(map(len, texts.values()))} characters: {error}. Give more text or ask for "
            "fewer pieces (at least 4 special, 256 byte, "
            f"{len(WHITESPACE_PIECES) + 10} whitespace and digit pieces, and the alphabet)."
        ) from None
    data = model.getvalue()
    write_whole(path, data)
    return sentencepiece.SentencePieceProcessor(model_proto=data)


def bytes_per_token(
    tokenizer: SentencePieceProcessor, texts: Mapping[str, str]
) -> dict[str, float]:
    """UTF-8 bytes a token stands for, by domain: the larger, the better the vocabulary fits."""
    return {
        name: len(text.encode()) / max(len(tokenizer.encode(text)), 1)
        for name, text in texts.items()
    }


def _sample(texts: Mapping[str, str], seed: int, characters: int) -> Iterator[str]:
    for index, text in enumerate(texts.values()):
        chunks = list(_chunks(text))
        taken = 0
        for number in np.random.default_rng([seed, 0x70, index]).permutation(len(chunks)):
            if taken >= characters:
                break
            taken += len(chunks[number])
            yield chunks[number]


def _chunks(text: str) -> Iterator[str]:
    """Whole lines, about a thousand characters together; a longer line is cut at a space."""
    start = 0
    while start < len(text):
        end = start + _CHUNK_CHARACTERS
        if end < len(text):
            cut = text.rfind("\n", start, end) + 1 or text.rfind(" ", start + 1, end)
            end = cut if cut > start else end
        yield text[start:end]
        start = end
