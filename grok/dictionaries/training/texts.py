"""The text of a run: streams of token ids by name, learned from or held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from grok.errors import GrokError
from grok.training.corpus import load_domains, split_heldout

if TYPE_CHECKING:
    from grok.runner.model import Model


# of the arithmetic problems, which the bundled model was trained on too
CORPUS_SEED = 0


def streams(
    model: Model,
    *,
    corpus: Path | None = None,
    files: Sequence[Path] = (),
    held_out: bool = False,
) -> dict[str, np.ndarray]:
    """Token ids of each text by its name.

    The last 3 % of each text, to the end of a line, are held out.

    Args:
        model: whose tokenizer is used.
        corpus: folder of the bundled model's own text: five files, Python source and arithmetic.
        files: text files, or `.npy` files of token ids.
        held_out: give what is held out instead of the rest.

    Raises:
        GrokError: no text, or one that cannot be read.
    """
    texts: dict[str, tuple[str, str]] = {}
    found: dict[str, np.ndarray] = {}
    if corpus is not None:
        for name, domain in load_domains(corpus, CORPUS_SEED).items():
            texts[name] = (domain.train_text, domain.heldout_text)
    for file in files:
        if file.stem in texts or file.stem in found:
            raise GrokError(f"{file}: there is another text named {file.stem!r}; rename one.")
        if file.suffix == ".npy":
            found[file.stem] = _ids(file, model.config.vocab_size, held_out)
            continue
        try:
            texts[file.stem] = split_heldout(file.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise GrokError(f"{file}: no UTF-8 text ({error!s:.80}).") from error
    if texts and model.tokenizer is None:
        raise GrokError("This model has no tokenizer; give token ids as .npy files.")
    for name, parts in texts.items():
        assert model.tokenizer is not None
        text = parts[1] if held_out else parts[0]
        found[name] = np.asarray(model.tokenizer.encode(text), np.int32) if text else _NONE
    found = {name: stream for name, stream in found.items() if stream.size}
    if not found:
        raise GrokError("There is no text; give --corpus FOLDER or --text FILE.")
    return found


_NONE = np.zeros(0, np.int32)


def _ids(file: Path, vocab_size: int, held_out: bool) -> np.ndarray:
    """Token ids of a file, checked; the last 3 % of them are held out."""
    try:
        with file.open("rb") as stream:
            ids = np.load(stream, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise GrokError(f"{file}: no array of token ids ({error!s:.80}).") from error
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not ids.size:
        raise GrokError(f"{file}: {ids.dtype} of shape {ids.shape}; expected one row of ids.")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise GrokError(
            f"{file}: ids from {ids.min()} to {ids.max()}; the vocabulary has {vocab_size}."
        )
    at = int(len(ids) * 0.97)
    return np.asarray(ids[at:] if held_out else ids[:at], np.int32)
