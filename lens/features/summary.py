"""`features.json` of a database, checked: what it is of, and the files that belong to it.

Axes: label (the texts of the pass), layer (routed ones), expert.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from grok.checkpoints.safetensors import parse_json
from grok.errors import GrokError, plain
from lens.errors import LensError

MANIFEST = "features.json"
FORMAT_VERSION = 1
LARGEST_MANIFEST = 2**20
LARGEST_FILE = 2**33
NEEDED = ("features", "examples", "routes", "windows", "pieces")
OPTIONAL = ("judged", "logits")
LEVEL = 0.05  # of q, at or below which an association counts as one, as where it is written
MOST = {"groups": 1000, "features": 2**22, "experts": 4096, "tokens": 2**53}
_HASH = re.compile(r"[0-9a-f]{64}")
ADVICE = "Make the database again with `python -m grok.dictionaries.index`."


@dataclass(frozen=True, eq=False)
class Summary:
    """What a database is of.

    Attributes:
        kind: of the dictionary: sae, transcoder, clt, crosscoder or expert_transcoder.
        reads, writes: names of the sites, such as "layers[3].resid_mid".
        groups, features: groups of features, and features of each.
        layers: that have routers, as the model numbers them.
        experts: of a layer.
        labels: names of the texts of the pass.
        tokens_by_label: tokens of each.
        held_out_tokens: of them, tokens that the dictionary was not trained on.
        sampled_tokens: of them, those on which associations were tested.
        sampled_windows: of text that those are in, each of which counted as one; 0 where tokens
            counted as independent.
        chosen: share of all tokens that choose an expert, which is chance for any feature.
        kinds: of contexts, by their number.
        lowest, highest: strengths between which the bins of histograms lie, evenly in their log.
        model: its name; model_sha256, dictionary_sha256: what the database belongs to.
        files: SHA-256 and bytes of each table.
    """

    kind: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    groups: int
    features: int
    layers: tuple[int, ...]
    experts: int
    labels: tuple[str, ...]
    tokens_by_label: Int[np.ndarray, " label"]
    held_out_tokens: int
    sampled_tokens: int
    sampled_windows: int
    chosen: Float[np.ndarray, "layer expert"]
    kinds: tuple[str, ...]
    lowest: float
    highest: float
    model: str
    model_sha256: str
    dictionary_sha256: str
    files: Mapping[str, tuple[str, int]]

    @property
    def tokens(self) -> int:
        """Tokens of the pass."""
        return int(self.tokens_by_label.sum())


def read_summary(folder: Path) -> Summary:
    """The checked manifest of a database.

    Raises:
        LensError: there is none, or it says what no database is.
    """
    file = folder / MANIFEST
    try:
        if file.stat().st_size > LARGEST_MANIFEST:
            raise LensError(f"{file}: larger than {LARGEST_MANIFEST:,} bytes. {ADVICE}")
        text = parse_json(file.read_bytes(), str(file))
    except OSError as error:
        raise LensError(f"{file}: no database of features ({error.strerror}). {ADVICE}") from error
    except GrokError as error:
        raise LensError(f"{error} {ADVICE}") from error
    if text.get("format_version") != FORMAT_VERSION:
        found = plain(json.dumps(text.get("format_version"))[:40], 20)
        raise LensError(f"{file}: format {found}; this version reads {FORMAT_VERSION}. {ADVICE}")
    return _Reading(text, file).summary()


class _Reading:
    """Values of a manifest by name, each of the type that is expected."""

    def __init__(self, text: Mapping[str, Any], file: Path) -> None:
        self._text, self._file = text, file

    def summary(self) -> Summary:
        labels = self._texts("labels", 1000)
        layers = self._array("layers", (None,), whole=True)
        experts = self._whole("experts")
        bins = self._text.get("bins")
        lowest, highest = (
            self._real(bins if isinstance(bins, dict) else {}, name)
            for name in ("lowest", "highest")
        )
        if not 0 < lowest < highest:
            raise self._odd("bins", "two strengths, the lower one above 0")
        return Summary(
            kind=self._said("kind"),
            reads=self._texts("reads", 10_000),
            writes=self._texts("writes", 10_000),
            groups=self._whole("groups"),
            features=self._whole("features"),
            layers=tuple(int(one) for one in layers),
            experts=experts,
            labels=labels,
            tokens_by_label=self._array("tokens_by_label", (len(labels),), whole=True),
            held_out_tokens=self._whole("held_out_tokens", 0),
            sampled_tokens=self._whole("sampled_tokens", 0),
            sampled_windows=self._whole("sampled_windows", 0, missing=0),
            chosen=self._array("chosen", (len(layers), experts)),
            kinds=self._texts("kinds", 100),
            lowest=lowest,
            highest=highest,
            model=self._said("model"),
            model_sha256=self._said("model_sha256"),
            dictionary_sha256=self._said("dictionary_sha256"),
            files=self._files(),
        )

    def _odd(self, name: str, expected: str) -> LensError:
        found = plain(json.dumps(self._text.get(name))[:60], 60)
        return LensError(f"{self._file}: {name} is {found}; expected {expected}. {ADVICE}")

    def _whole(self, name: str, least: int = 1, missing: int | None = None) -> int:
        value, most = self._text.get(name, missing), MOST.get(name, 2**53)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self._odd(name, f"a whole number from {least} to {most}")
        return value

    def _real(self, among: Mapping[str, Any], name: str) -> float:
        value = among.get(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not value < 1e30:
            raise self._odd("bins", f"a number {name}")
        return float(value)

    def _said(self, name: str) -> str:
        value = self._text.get(name)
        if not isinstance(value, str) or len(value) > 200:
            raise self._odd(name, "a text")
        return value

    def _texts(self, name: str, most: int) -> tuple[str, ...]:
        value = self._text.get(name)
        if (
            not isinstance(value, list)
            or not 0 < len(value) <= most
            or not all(isinstance(one, str) and len(one) <= 200 for one in value)
        ):
            raise self._odd(name, f"1 to {most} texts")
        return tuple(value)

    def _array(
        self, name: str, shape: tuple[int | None, ...], *, whole: bool = False
    ) -> np.ndarray:
        try:
            value = np.asarray(self._text.get(name))
        except ValueError:
            raise self._odd(name, "an array") from None
        kinds = "i" if whole else "if"
        fits = value.ndim == len(shape) and all(
            own == size or size is None for own, size in zip(value.shape, shape, strict=True)
        )
        if not fits or value.dtype.kind not in kinds or not value.size or value.size > 2**16:
            raise self._odd(name, "an array of numbers of another shape")
        if not np.isfinite(value).all() or (value < 0).any():
            raise self._odd(name, "numbers of at least 0")
        return value if whole else value.astype(np.float64)

    def _files(self) -> dict[str, tuple[str, int]]:
        files = self._text.get("files")
        if not isinstance(files, dict) or not set(NEEDED) <= set(files):
            raise self._odd("files", f"at least {', '.join(NEEDED)}")
        found = {}
        for name in (*NEEDED, *OPTIONAL):
            one = files.get(name)
            if one is None:
                continue
            sha256, size = (
                (one.get("sha256"), one.get("bytes")) if isinstance(one, dict) else (0, 0)
            )
            if not isinstance(sha256, str) or not _HASH.fullmatch(sha256):
                raise self._odd("files", "a SHA-256 of each")
            if not isinstance(size, int) or not 0 < size <= LARGEST_FILE:
                raise self._odd("files", f"a size up to {LARGEST_FILE:,} bytes of each")
            found[name] = (sha256, size)
        return found
