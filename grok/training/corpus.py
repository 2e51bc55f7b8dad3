"""The training text of the bundled model: seven domains, their tokens, and batches drawn from them.

Five domains are text files in a corpus folder; Python source is the standard
library of the running interpreter; arithmetic is generated. Nothing here
needs JAX.

Axes: B sequences in a batch, S tokens a sequence predicts, N tokens of a
domain's stream.
"""

from __future__ import annotations

import hashlib
import os
import platform
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from grok.errors import GrokError
from grok.training.sources import arithmetic, python_source

DOMAINS = (
    "english_prose",
    "english_drama",
    "french_prose",
    "german_prose",
    "spanish_prose",
    "python",
    "arithmetic",
)
FILE_DOMAINS = DOMAINS[:5]

# Share of the sequences of a training run. The four languages' prose and Python
# weigh about alike; drama is the smallest file in a language that prose already
# covers, and arithmetic is quickly learnt, so both weigh less.
WEIGHTS: Mapping[str, float] = {
    "english_prose": 0.17,
    "english_drama": 0.11,
    "french_prose": 0.17,
    "german_prose": 0.15,
    "spanish_prose": 0.15,
    "python": 0.17,
    "arithmetic": 0.08,
}

HELDOUT_SHARE = 0.03


@dataclass(frozen=True)
class Domain:
    """The text of one domain, split once into what is trained on and what is not.

    Attributes:
        name: One of `DOMAINS`.
        train_text: The first 97 % of the text, to the end of a line.
        heldout_text: The rest; never trained on, for the tokenizer either.
        source: Where the text comes from, in words fit for a model card.
    """

    name: str
    train_text: str
    heldout_text: str
    source: str = ""


@dataclass(frozen=True)
class EncodedDomain:
    """The token streams of one domain: `train` [N] and `heldout` [M], int32."""

    train: np.ndarray
    heldout: np.ndarray


class Tokenizer(Protocol):
    """What is used of a `sentencepiece.SentencePieceProcessor`."""

    def encode(self, text: str) -> list[int]: ...

    def serialized_model_proto(self) -> bytes: ...


def load_domains(corpus_dir: str | Path, seed: int) -> dict[str, Domain]:
    """The seven domains, each split into training and held-out text.

    Args:
        corpus_dir: Folder with one UTF-8 file `<domain>.txt` for each of `FILE_DOMAINS`.
        seed: Decides the arithmetic problems; the other domains do not depend on it.

    Returns:
        The domains by name, in the order of `DOMAINS`.

    Raises:
        GrokError: The folder or one of its files is missing, not UTF-8 or too short.
    """
    folder = Path(corpus_dir)
    if not folder.is_dir():
        raise GrokError(
            f"There is no corpus folder {folder}. Give the folder that holds "
            f"{', '.join(f'{name}.txt' for name in FILE_DOMAINS)}."
        )
    texts = {name: _read_text(folder / f"{name}.txt") for name in FILE_DOMAINS}
    texts["python"] = python_source()
    texts["arithmetic"] = arithmetic(seed)
    sources = {name: f"{name}.txt" for name in FILE_DOMAINS}
    version = platform.python_version()
    sources["python"] = f"standard library of Python {version}"
    sources["arithmetic"] = f"generated, seed {seed}"
    domains = {}
    for name in DOMAINS:
        train, heldout = split_heldout(texts[name])
        if not train or not heldout:
            raise GrokError(
                f"Domain {name}: the text of {sources[name]} has {len(texts[name])} characters in "
                "too few lines to hold out a part. Expected many lines; give the whole file."
            )
        domains[name] = Domain(name, train, heldout, sources[name])
    return domains


def split_heldout(text: str, share: float = HELDOUT_SHARE) -> tuple[str, str]:
    """`text` cut in two at the end of a line, so that about the last `share` of it is held out."""
    cut = text.find("\n", int(len(text) * (1 - share))) + 1
    if cut in (0, len(text)):  # no line ends inside the last part: cut before it
        cut = text.rfind("\n", 0, len(text) - 1) + 1
    return text[:cut], text[cut:]


def encode_domains(
    domains: Mapping[str, Domain], tokenizer: Tokenizer, cache: str | Path | None = None
) -> dict[str, EncodedDomain]:
    """The token streams of the domains.

    Args:
        domains: As from `load_domains`.
        tokenizer: A SentencePiece processor.
        cache: An `.npz` to reuse when it was made from the same tokenizer and the
            same text, and to write otherwise.
    """
    key = hashlib.sha256(tokenizer.serialized_model_proto())
    for domain in domains.values():
        for text in (domain.name, domain.train_text, domain.heldout_text):
            key.update(hashlib.sha256(text.encode()).digest())
    digest = key.hexdigest()
    if cache is not None:
        found = _read_cache(Path(cache), digest, domains)
        if found is not None:
            return found
    encoded = {
        name: EncodedDomain(
            np.asarray(tokenizer.encode(domain.train_text), dtype=np.int32),
            np.asarray(tokenizer.encode(domain.heldout_text), dtype=np.int32),
        )
        for name, domain in domains.items()
    }
    if cache is not None:
        _write_cache(Path(cache), digest, encoded)
    return encoded


class Batches:
    """Training batches, each a function of (seed, step) alone, so that a resumed run is exact.

    Every batch holds at least one sequence of each domain (when it has room for
    all); over many batches the domains' shares are the weights. A sequence is a
    window at a random place of its domain's training stream.

    Args:
        encoded: Token streams by domain, as from `encode_domains`.
        batch_size: B, sequences a batch.
        sequence_length: S; a row has S + 1 tokens, inputs and targets overlapping.
        seed: Same seed, same batches.
        weights: Share of each domain; by default `WEIGHTS`. Need not sum to 1.

    Raises:
        GrokError: A stream is shorter than a row, holds the pad token 0, or a weight is missing.
    """

    def __init__(
        self,
        encoded: Mapping[str, EncodedDomain],
        batch_size: int,
        sequence_length: int,
        seed: int,
        weights: Mapping[str, float] = WEIGHTS,
    ) -> None:
        self.domains = tuple(encoded)
        self.batch_size = batch_size
        self.sequence_length = sequence_length
        self.seed = seed
        missing = [name for name in self.domains if weights.get(name, 0.0) <= 0.0]
        if missing:
            raise GrokError(
                f"No positive weight for {', '.join(missing)}. Every domain needs one, or leave "
                "the domain out of the streams."
            )
        for name, domain in encoded.items():
            if len(domain.train) < sequence_length + 1:
                raise GrokError(
                    f"Domain {name} has {len(domain.train)} training tokens, fewer than a row of "
                    f"{sequence_length + 1}. Give more text or a shorter sequence length."
                )
            if (domain.train == 0).any():
                raise GrokError(
                    f"Domain {name} holds token 0, which is the pad token. Encode it again with "
                    "a tokenizer whose id 0 is [PAD]."
                )
        self._streams = [np.asarray(encoded[name].train, dtype=np.int32) for name in self.domains]
        shares = np.array([weights[name] for name in self.domains], dtype=np.float64)
        self._weights = shares / shares.sum()

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens [B, S + 1] int32 and each row's index into `domains` [B] int32, at `step`."""
        rng = np.random.default_rng([self.seed, 0xBA, step])
        domain = rng.permutation(self._row_domains(rng.random()))
        offsets = np.arange(self.sequence_length + 1)
        tokens = np.empty((self.batch_size, self.sequence_length + 1), dtype=np.int32)
        for row, index in enumerate(domain):
            stream = self._streams[index]
            start = rng.integers(len(stream) - self.sequence_length)
            tokens[row] = stream[start + offsets]
        return tokens, domain.astype(np.int32)

    def _row_domains(self, offset: float) -> np.ndarray:
        """Domain of each row [B]: one each, the rest by systematic sampling of what is owed."""
        count = len(self._weights)
        if self.batch_size < count:
            return _systematic(self._weights, self.batch_size, offset)
        owed = np.maximum(self._weights * self.batch_size - 1, 0)
        if owed.sum() == 0:  # equal weights in a batch of one row a domain
            return np.arange(count)
        rest = _systematic(owed / owed.sum(), self.batch_size - count, offset)
        return np.concatenate([np.arange(count), rest])


def _systematic(shares: np.ndarray, size: int, offset: float) -> np.ndarray:
    """`size` indices in proportion to `shares`: each count is its share rounded down or up."""
    points = (np.arange(size) + offset) / max(size, 1)
    return np.minimum(np.searchsorted(np.cumsum(shares), points, side="right"), len(shares) - 1)


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise GrokError(
            f"{path} is missing. The corpus folder must hold "
            f"{', '.join(f'{name}.txt' for name in FILE_DOMAINS)}; the model card names them."
        ) from None
    except UnicodeDecodeError as error:
        raise GrokError(
            f"{path}: byte {error.start} is not UTF-8. Save the file as UTF-8 text."
        ) from None
    except OSError as error:
        raise GrokError(f"{path} cannot be read: {error.strerror}.") from None
    if "\0" in text:
        raise GrokError(f"{path} holds NUL characters, so it is not text. Replace the file.")
    return text


def _read_cache(
    path: Path, digest: str, domains: Mapping[str, Domain]
) -> dict[str, EncodedDomain] | None:
    """The cached streams, or None when there are none for this text and tokenizer."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["sha256"]) != digest:
                return None
            return {
                name: EncodedDomain(
                    stored[f"{name}.train"].astype(np.int32),
                    stored[f"{name}.heldout"].astype(np.int32),
                )
                for name in domains
            }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write_cache(path: Path, digest: str, encoded: Mapping[str, EncodedDomain]) -> None:
    arrays: dict[str, np.ndarray] = {"sha256": np.array(digest)}
    for name, domain in encoded.items():
        for part, stream in (("train", domain.train), ("heldout", domain.heldout)):
            small = stream.max(initial=0) < 1 << 16
            arrays[f"{name}.{part}"] = stream.astype(np.uint16 if small else np.int32)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".npz")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
