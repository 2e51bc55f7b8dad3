"""Routing and activations of many prompts, as they stand on disk.

A collection is a folder:

- `manifest.json`: model hash, settings, sites, how many parts are done.
- `prompts.parquet`: prompt, label, text, n_tokens; `tokens.parquet`: prompt, position, token,
  piece.
- `routing-00000.parquet` …: one row per prompt, position, layer and slot (0 is the largest
  gate): prompt, position, token, layer, slot, expert, gate, margin (z_K − z_(K+1), logits).
- `activations/SITE.npy`: [tokens of all prompts, …] in the order of tokens.parquet, to be
  opened with `numpy.load(..., mmap_mode="r")`.

A part's routing file appears whole, then the manifest counts the part, so a run that was killed
goes on with the part it was in. Pages of Parquet files have checksums. A file that is gone, because
it was damaged and set aside, is made again; a damaged manifest is made from the parts there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from grok.engine.compiled import Forward
from grok.errors import GrokError, plain
from grok.files import set_aside, write_whole
from grok.interventions.sites import Site

FORMAT_VERSION = 1
# Of collections whose manifest does not say it, and by default.
PART_TOKENS = 20_000
MANIFEST, PROMPTS, TOKENS = "manifest.json", "prompts.parquet", "tokens.parquet"

MOST_PARTS = 100_000  # each of many thousand tokens

Manifest = dict[str, Any]
Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Collection:
    """A finished or unfinished collection.

    Attributes:
        folder: of its files.
        manifest: the entries of `manifest.json`.
    """

    folder: Path
    manifest: Manifest

    @property
    def finished(self) -> bool:
        """True when all prompts are in it."""
        return bool(self.manifest["parts_done"] == self.manifest["parts"])

    @property
    def routing_files(self) -> list[Path]:
        """The Parquet files of finished parts, in order."""
        return [routing_file(self.folder, i) for i in range(self.manifest["parts_done"])]

    def activations(self, site: str) -> np.ndarray:
        """Values of a site [tokens of all prompts, …], mapped from disk, read-only.

        Raises:
            GrokError: the site was not collected, or its file is damaged.
        """
        if site not in self.manifest["sites"]:
            raise GrokError(
                f"{self.folder}: {site} was not collected; there are "
                f"{', '.join(self.manifest['sites']) or 'no activations'}."
            )
        file = activation_file(self.folder, site)
        try:
            values: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise GrokError(
                f"{file}: the activations cannot be read ({plain(str(error), 120)}). Collect again "
                "into another folder."
            ) from error
        return values


def load_collection(folder: str | Path) -> Collection:
    """The collection in a folder.

    Raises:
        GrokError: there is none.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        version = manifest["format_version"]
        for name in ("parts", "parts_done", "n_tokens", "n_prompts"):
            if type(manifest[name]) is not int or manifest[name] < 0:
                raise ValueError(f"{name} is no number of such")
        if not manifest["parts_done"] <= manifest["parts"] < MOST_PARTS:
            raise ValueError("more parts than there can be")
        dict(manifest["sites"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise GrokError(
            f"{folder}: no collection ({plain(str(error), 100)}). Collect again: what is whole in "
            "it is kept."
        ) from error
    if version != FORMAT_VERSION:
        raise GrokError(
            f"{folder}: format {plain(str(version), 40)}; this version reads {FORMAT_VERSION}. "
            "Collect again."
        )
    return Collection(folder, manifest)


def part_tokens_of(folder: Path) -> int | None:
    """Tokens of a part of the collection that the folder holds; None where it holds none.

    Parts stay as they are, whatever room there is in memory now.
    """
    try:
        return int(load_collection(folder).manifest.get("part_tokens", PART_TOKENS))
    except (GrokError, ValueError, TypeError, OverflowError):
        return None


@dataclass(frozen=True)
class Prompts:
    """The prompts of a collection.

    Attributes:
        texts: of each prompt.
        tokens: ids of each prompt [T].
        labels: one for each prompt.
    """

    texts: Sequence[str]
    tokens: Sequence[np.ndarray]
    labels: Sequence[str]

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each prompt."""
        return [len(one) for one in self.tokens]

    @cached_property
    def first_rows(self) -> np.ndarray:
        """The row of each prompt's first token among the tokens of all, and the number of rows."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @property
    def n_tokens(self) -> int:
        """Tokens of all prompts."""
        return int(self.first_rows[-1])

    def sha256(self) -> str:
        """A hash over tokens and labels."""
        digest = hashlib.sha256()
        for one, label in zip(self.tokens, self.labels, strict=True):
            digest.update(f"{len(one)}|{len(label.encode())}|{label}".encode())
            digest.update(np.ascontiguousarray(one, "<i4").tobytes())
        return digest.hexdigest()


def begin(
    folder: Path,
    manifest: Manifest,
    prompts: Prompts,
    parts: Sequence[Sequence[int]],
    sites: Sequence[Site],
    pieces: Callable[[np.ndarray], Sequence[str]],
) -> int:
    """Makes a new collection, or goes on with one of the same prompts, model and settings.

    Args:
        folder: new, empty, or of the same collection.
        manifest: of the collection, with no part done.
        prompts: of the collection.
        parts: numbers of the prompts of each part.
        sites: whose values are kept.
        pieces: gives those of token ids [T].

    Returns:
        Parts that are done.

    Raises:
        GrokError: the folder holds something else.
        OSError: it cannot be written.
    """
    done = _parts_done(folder, manifest, parts)
    if done == 0 or not all((folder / name).is_file() for name in (PROMPTS, TOKENS)):
        tokens = np.concatenate(list(prompts.tokens)).astype(np.int32)
        _write_prompts(folder, prompts, tokens, pieces(tokens))
    if done == 0:
        _make_activations(folder, sites, prompts.n_tokens)
        write_manifest(folder, manifest)
    return done


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest, whole or not at all."""
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())


def write_values(folder: Path, values: Mapping[str, np.ndarray], first: int, length: int) -> None:
    """Puts one prompt's values [T, …], by the name of their site, into the activations.

    Args:
        folder: of the collection.
        values: may be padded.
        first: row of the prompt's first token.
        length: tokens of the prompt.
    """
    for site, value in values.items():
        mapped = np.lib.format.open_memmap(activation_file(folder, site), "r+")
        mapped[first : first + length] = value[:length]
        mapped.flush()


def write_routing(file: Path, events: Sequence[Columns]) -> None:
    """Writes the events of several prompts, see `routing_events`, in one file."""
    _write_table(file, {name: np.concatenate([one[name] for one in events]) for name in events[0]})


def routing_events(
    prompt: int, tokens: np.ndarray, result: Forward, row: int, layers: Sequence[int]
) -> Columns:
    """Columns of one prompt's routing events, in the order position, layer, slot.

    Args:
        prompt: its number.
        tokens: its ids [T].
        result: of the pass it was in.
        row: of the prompt in that pass.
        layers: the model's numbers of the layers with experts [L].
    """
    t = len(tokens)
    experts = result.experts[:, row, :t].transpose(1, 0, 2)  # [T, L, K]
    gates = result.gates[:, row, :t].transpose(1, 0, 2)
    _, n_layers, k = experts.shape
    deciding = result.router_logits if result.choice_values is None else result.choice_values
    ordered = np.sort(deciding[:, row, :t], axis=-1)[..., ::-1]
    if k < ordered.shape[-1]:
        margin = (ordered[..., k - 1] - ordered[..., k]).T  # [T, L]
    else:
        margin = np.full((t, n_layers), np.inf, np.float32)
    position, layer, slot = (axis.ravel() for axis in np.indices(experts.shape))
    there = experts.ravel() >= 0  # an intervention may leave slots empty
    events: dict[str, np.ndarray] = {
        "prompt": np.full(experts.size, prompt, np.int32),
        "position": position.astype(np.int32),
        "token": tokens[position].astype(np.int32),
        "layer": np.asarray(layers, np.int16)[layer],
        "slot": slot.astype(np.int8),
        "expert": experts.ravel().astype(np.int16),
        "gate": gates.ravel().astype(np.float32),
        "margin": np.repeat(margin.ravel(), k).astype(np.float32),
    }
    return {name: column[there] for name, column in events.items()}


def routing_file(folder: Path, part: int) -> Path:
    """The file of one part's routing events."""
    return folder / f"routing-{part:05d}.parquet"


def activation_file(folder: Path, site: str) -> Path:
    """The file of one site's values."""
    return folder / "activations" / f"{site}.npy"


def _parts_done(folder: Path, manifest: Manifest, parts: Sequence[Sequence[int]]) -> int:
    """Parts that an earlier run of the same collection has finished.

    Raises:
        GrokError: the folder holds something else.
    """
    if not folder.exists():
        folder.mkdir(parents=True)
        return 0
    if not any(folder.iterdir()):
        return 0
    if not (folder / MANIFEST).exists() and not list(folder.glob("*.parquet")):
        raise GrokError(f"{folder} holds other files; choose a folder that is new or empty.")
    if not (folder / MANIFEST).exists():
        return 0
    try:
        before = {"part_tokens": PART_TOKENS} | load_collection(folder).manifest
    except GrokError:
        if not _is_damaged(folder / MANIFEST):
            raise
        set_aside(folder / MANIFEST)
        done = _whole_parts(folder, parts) if manifest["routing"] and not manifest["sites"] else 0
        write_manifest(folder, manifest | {"parts_done": done})
        return done
    differ = [
        name for name in manifest if name != "parts_done" and before.get(name) != manifest[name]
    ]
    if differ:
        raise GrokError(
            f"{folder} holds a collection with another {', '.join(differ)}; choose another folder, "
            "or delete this one."
        )
    return int(before["parts_done"])


def _is_damaged(file: Path) -> bool:
    """True where a file holds no JSON object with the fields of a manifest."""
    try:
        found = json.loads(file.read_text("utf-8"))
    except OSError:
        return False
    except (ValueError, RecursionError):
        return True
    return not isinstance(found, dict) or "format_version" not in found


def _whole_parts(folder: Path, parts: Sequence[Sequence[int]]) -> int:
    """First parts whose routing files are whole, and of these prompts."""
    import pyarrow.parquet

    for i, part in enumerate(parts):
        try:
            with pyarrow.parquet.ParquetFile(
                routing_file(folder, i), page_checksum_verification=True
            ) as file:
                found = file.read()["prompt"].to_numpy()
        except Exception:  # of a dozen kinds, for a file that is damaged or not there
            return i
        if not np.array_equal(np.unique(found), np.sort(np.asarray(part))):
            return i
    return len(parts)


def _write_prompts(
    folder: Path, prompts: Prompts, tokens: np.ndarray, pieces: Sequence[str]
) -> None:
    sizes = np.array(prompts.lengths, np.int32)
    number = np.arange(len(sizes), dtype=np.int32)
    _write_table(
        folder / PROMPTS,
        {
            "prompt": number,
            "label": list(prompts.labels),
            "text": list(prompts.texts),
            "n_tokens": sizes,
        },
    )
    _write_table(
        folder / TOKENS,
        {
            "prompt": np.repeat(number, sizes),
            "position": np.concatenate([np.arange(n, dtype=np.int32) for n in sizes]),
            "token": tokens,
            "piece": list(pieces),
        },
    )


def _make_activations(folder: Path, sites: Sequence[Site], rows: int) -> None:
    for site in sites:
        file = activation_file(folder, site.name)
        file.parent.mkdir(exist_ok=True)
        np.lib.format.open_memmap(file, "w+", np.dtype(site.dtype), (rows, *site.shape[1:])).flush()


def _write_table(file: Path, columns: Mapping[str, np.ndarray | Sequence[str]]) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(dict(columns))
    options: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
    write_whole(file, lambda stream: pyarrow.parquet.write_table(table, stream, **options))
