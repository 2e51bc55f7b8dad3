"""Routing and activations of many prompts, on disk.

A collection is a folder:

- `manifest.json`: model hash, settings, sites, how many parts are done.
- `prompts.parquet`: prompt, label, text, n_tokens; `tokens.parquet`: prompt, position, token,
  piece.
- `routing-00000.parquet` …: one row per prompt, position, layer and slot (0 is the largest
  gate): prompt, position, token, layer, slot, expert, gate, margin (z_K − z_(K+1), logits).
- `activations/SITE.npy`: [tokens of all prompts, …] in the order of tokens.parquet, to be
  opened with `numpy.load(..., mmap_mode="r")`.

Prompts are taken in parts of some thousand tokens. A part's routing file appears whole, then
the manifest counts the part, so a run that was killed goes on with the part it was in.
Memory holds one batch of activations and one part of routing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grok.engine.compiled import Forward, bucket, padded
from grok.engine.engine import Batch
from grok.errors import GrokError
from grok.files import write_whole
from grok.interventions.edits import NO_EDITS, Edits
from grok.interventions.hooks import arrange_hooks
from grok.interventions.sites import HookPoint, Site, parse, row_bytes

if TYPE_CHECKING:
    from grok.runner.model import Model

FORMAT_VERSION = 1
PART_TOKENS = 20_000
BATCH_TOKENS = 2048
MANIFEST = "manifest.json"
STORED = ("float32", "float16")

Progress = Callable[[int, int], object]
Turn = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True)
class Collection:
    """A finished or unfinished collection.

    Attributes:
        folder: where it is.
        manifest: what it is of.
    """

    folder: Path
    manifest: dict[str, Any]

    @property
    def finished(self) -> bool:
        """Whether all prompts are in it."""
        return self.manifest["parts_done"] == self.manifest["parts"]

    @property
    def routing_files(self) -> list[Path]:
        """The Parquet files of finished parts, in order."""
        return [self.folder / _routing_name(i) for i in range(self.manifest["parts_done"])]

    def activations(self, site: str) -> np.ndarray:
        """Values of a site [tokens of all prompts, …], mapped from disk, read-only.

        Raises:
            GrokError: the site was not collected.
        """
        if site not in self.manifest["sites"]:
            raise GrokError(
                f"{self.folder}: {site} was not collected; there are "
                f"{', '.join(self.manifest['sites']) or 'no activations'}."
            )
        return np.load(_activation_file(self.folder, site), mmap_mode="r", allow_pickle=False)


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
            int(manifest[name])
        dict(manifest["sites"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GrokError(f"{folder}: no collection ({str(error):.100}).") from error
    if version != FORMAT_VERSION:
        raise GrokError(
            f"{folder}: format {version}; this version reads {FORMAT_VERSION}. Collect again."
        )
    return Collection(folder, manifest)


def collect(
    model: Model,
    prompts: Sequence[str | Sequence[int] | np.ndarray],
    folder: str | Path,
    *,
    labels: Sequence[str] | None = None,
    sites: Sequence[str] = (),
    routing: bool = True,
    edits: Edits = NO_EDITS,
    stored: str = "float32",
    part_tokens: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: Progress | None = None,
    turn: Turn = nullcontext,
) -> Collection:
    """Runs many prompts and keeps their routing and activations in a folder.

    Called again with the same prompts, model and settings it goes on where it stopped.

    Args:
        prompts: texts or token ids.
        folder: a new one, or one of the same collection.
        labels: one for each prompt.
        sites: full names of activations to keep, such as "layers[3].resid_post".
        routing: keep the routing events.
        edits: interventions in force.
        stored: dtype of activations on disk, "float32" (holds every site exactly) or "float16".
        part_tokens: tokens after which progress is made safe; 20,000 by default, or what the
            memory of a streamed model has room for, which takes a part through its layers in one
            pass, or in few where padding is long. A collection goes on with its own.
        batch_tokens: padded tokens that are computed together.
        progress: told (tokens done, tokens in all); what it raises ends the run.
        turn: entered around each batch.

    Raises:
        GrokError: unusable prompts (named by their number), a folder of something else, or a
            disk that cannot be written.
    """
    if stored not in STORED:
        raise GrokError(f"stored is {stored!r}; expected {' or '.join(STORED)}.")
    tokens = _encoded(model, prompts)
    labels = [""] * len(tokens) if labels is None else [str(label) for label in labels]
    if len(labels) != len(tokens):
        raise GrokError(f"{len(labels)} labels for {len(tokens)} prompts; expected one for each.")
    listed = {site.name: site for site in model.sites()}
    points = [parse(site, model.config.n_layers) for site in sites]
    kept = [listed[str(point)] for point in points]
    folder = Path(folder)
    room = _room(model, points)
    if part_tokens is None:
        part_tokens = _part_tokens_before(folder) or min(PART_TOKENS, room or PART_TOKENS)
    parts = _parts([len(one) for one in tokens], part_tokens)
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "model": model.name,
        "model_sha256": model.sha256,
        "settings": {"dtype": model.dtype, "interventions": edits.texts()},
        "n_prompts": len(tokens),
        "n_tokens": int(sum(len(one) for one in tokens)),
        "prompts_sha256": _prompts_hash(tokens, labels),
        "sites": {site.name: {"axes": list(site.axes), "stored": stored} for site in kept},
        "routing": routing,
        "part_tokens": part_tokens,
        "parts": len(parts),
        "parts_done": 0,
    }
    try:
        manifest["parts_done"] = _started(folder, manifest)
        if manifest["parts_done"] == 0:
            _write_prompts(model, folder, prompts, labels, tokens)
            _make_activations(folder, kept, manifest["n_tokens"], stored)
            _write_manifest(folder, manifest)
        first_rows = np.concatenate([[0], np.cumsum([len(one) for one in tokens])])
        done = (
            int(first_rows[parts[manifest["parts_done"] - 1][-1] + 1])
            if (manifest["parts_done"])
            else 0
        )
        if progress is not None:
            progress(done, manifest["n_tokens"])
        for i in range(manifest["parts_done"], len(parts)):
            events: list[dict[str, np.ndarray]] = []
            batches = [
                [parts[i][w] for w in which]
                for which in _batches(
                    [len(tokens[p]) for p in parts[i]], min(batch_tokens, room or batch_tokens)
                )
            ]
            for together in _passes(tokens, batches, room if model.engine.tells else 1):
                with turn():
                    results = _read(model, tokens, together, points, edits)
                for chosen, result in zip(together, results, strict=True):
                    for row, prompt in enumerate(dict.fromkeys(chosen)):
                        length = len(tokens[prompt])
                        if routing:
                            events.append(_events(prompt, tokens[prompt], result, row))
                        _keep(folder, kept, points, result, row, int(first_rows[prompt]), length)
                        done += length
                if progress is not None:
                    progress(done, manifest["n_tokens"])
            if routing:
                _write_routing(folder / _routing_name(i), events)
            manifest["parts_done"] = i + 1
            _write_manifest(folder, manifest)
    except OSError as error:
        raise GrokError(
            f"{folder}: the collection cannot be written ({error.strerror or error}). Free space "
            "or choose another folder; called again it goes on where it stopped."
        ) from error
    return Collection(folder, manifest)


# --- before the first batch --------------------------------------------------------------


def _encoded(model: Model, prompts: Sequence[Any]) -> list[np.ndarray]:
    if isinstance(prompts, str):
        raise GrokError("prompts is one text; expected a list of them.")
    found = []
    for i, prompt in enumerate(prompts):
        try:
            found.append(model.encode(prompt))
        except GrokError as error:
            raise GrokError(f"Prompt {i}: {error}") from error
    if not found:
        raise GrokError("There are no prompts; expected at least one.")
    return found


def _prompts_hash(tokens: Sequence[np.ndarray], labels: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for one, label in zip(tokens, labels, strict=True):
        digest.update(f"{len(one)}|{len(label.encode())}|{label}".encode())
        digest.update(np.ascontiguousarray(one, "<i4").tobytes())
    return digest.hexdigest()


def _parts(lengths: Sequence[int], part_tokens: int) -> list[list[int]]:
    """Consecutive prompts in parts of about so many tokens."""
    parts: list[list[int]] = [[]]
    size = 0
    for i, length in enumerate(lengths):
        if parts[-1] and size + length > part_tokens:
            parts.append([])
            size = 0
        parts[-1].append(i)
        size += length
    return parts


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Prompts of one padded length in batches of few sizes; the last repeats its last prompt."""
    by_bucket: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        by_bucket.setdefault(bucket(length), []).append(i)
    for n, members in sorted(by_bucket.items()):
        most = max(1, batch_tokens // n)
        for first in range(0, len(members), most):
            batch = members[first : first + most]
            size = 1 << (len(batch) - 1).bit_length()
            yield batch + [batch[-1]] * (min(size, most) - len(batch))


def _started(folder: Path, manifest: dict[str, Any]) -> int:
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
    before = {"part_tokens": PART_TOKENS} | load_collection(folder).manifest
    differ = [
        name for name in manifest if name != "parts_done" and before.get(name) != manifest[name]
    ]
    if differ:
        raise GrokError(
            f"{folder} holds a collection with another {', '.join(differ)}; choose another folder, "
            "or delete this one."
        )
    return int(before["parts_done"])


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True).encode())


def _write_prompts(
    model: Model,
    folder: Path,
    prompts: Sequence[Any],
    labels: Sequence[str],
    tokens: Sequence[np.ndarray],
) -> None:
    texts = [
        p if isinstance(p, str) else model.text(t) for p, t in zip(prompts, tokens, strict=True)
    ]
    sizes = np.array([len(one) for one in tokens], np.int32)
    number = np.arange(len(tokens), dtype=np.int32)
    _write_table(
        folder / "prompts.parquet",
        {"prompt": number, "label": list(labels), "text": texts, "n_tokens": sizes},
    )
    flat = np.concatenate(list(tokens)).astype(np.int32)
    _write_table(
        folder / "tokens.parquet",
        {
            "prompt": np.repeat(number, sizes),
            "position": np.concatenate([np.arange(n, dtype=np.int32) for n in sizes]),
            "token": flat,
            "piece": model.pieces(flat),
        },
    )


def _make_activations(folder: Path, sites: Sequence[Site], rows: int, stored: str) -> None:
    for site in sites:
        file = _activation_file(folder, site.name)
        file.parent.mkdir(exist_ok=True)
        dtype = np.int32 if site.dtype == "int32" else np.dtype(stored)
        np.lib.format.open_memmap(file, "w+", dtype, (rows, *site.shape[1:])).flush()


def _activation_file(folder: Path, site: str) -> Path:
    return folder / "activations" / f"{site}.npy"


def _routing_name(part: int) -> str:
    return f"routing-{part:05d}.parquet"


# --- batch by batch ----------------------------------------------------------------------


def _part_tokens_before(folder: Path) -> int | None:
    """Of the collection that the folder holds: its parts stay what they are, whatever room there
    is now."""
    try:
        return int(load_collection(folder).manifest.get("part_tokens", PART_TOKENS))
    except (GrokError, ValueError, TypeError):
        return None


def _room(model: Model, points: Sequence[HookPoint]) -> int | None:
    """Padded tokens that a pass of this model can have; None: as many as there are."""
    rows = model.engine.layers.max_rows(row_bytes(model.config, points))
    return None if rows is None else max(1, rows)


def _passes(
    tokens: Sequence[np.ndarray], batches: Sequence[list[int]], room: int | None
) -> list[list[list[int]]]:
    """Batches that go through the layers together; one that is larger than the room goes alone."""
    passes: list[list[list[int]]] = []
    left = 0
    for batch in batches:
        size = len(batch) * bucket(max(len(tokens[p]) for p in batch))
        if not passes or (room is not None and size > left):
            passes.append([])
            left = room or 0
        passes[-1].append(batch)
        left -= size
    return passes


def _read(
    model: Model,
    tokens: Sequence[np.ndarray],
    together: Sequence[Sequence[int]],
    points: Sequence[HookPoint],
    edits: Edits,
) -> list[Forward]:
    """One pass over some batches of prompts."""
    batches = []
    for chosen in together:
        own = [tokens[p] for p in chosen]
        given, real = padded(own, bucket(max(len(one) for one in own)))
        repeated = [p in chosen[:row] for row, p in enumerate(chosen)]
        real[repeated] = False
        hooks = arrange_hooks(
            model.config,
            edits,
            wanted=points,
            lengths=[len(one) for one in own],
            padded=given.shape[1],
            positions=bucket(model.config.context_length),
        )
        batches.append(Batch(given, 0, given > 0, None, 0, hooks, real))
    return model.engine.run(batches)


def _events(prompt: int, tokens: np.ndarray, result: Forward, row: int) -> dict[str, np.ndarray]:
    """Routing events of one prompt, in the order position, layer, slot."""
    t = len(tokens)
    experts = result.experts[:, row, :t].transpose(1, 0, 2)  # [T, L, K]
    gates = result.gates[:, row, :t].transpose(1, 0, 2)
    _, n_layers, k = experts.shape
    ordered = np.sort(result.router_logits[:, row, :t], axis=-1)[..., ::-1]
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
        "layer": layer.astype(np.int16),
        "slot": slot.astype(np.int8),
        "expert": experts.ravel().astype(np.int16),
        "gate": gates.ravel().astype(np.float32),
        "margin": np.repeat(margin.ravel(), k).astype(np.float32),
    }
    return {name: column[there] for name, column in events.items()}


def _keep(
    folder: Path,
    sites: Sequence[Site],
    points: Sequence[HookPoint],
    result: Forward,
    row: int,
    first: int,
    length: int,
) -> None:
    for site, point in zip(sites, points, strict=True):
        mapped = np.lib.format.open_memmap(_activation_file(folder, site.name), "r+")
        mapped[first : first + length] = result.kept[point][row, :length]
        mapped.flush()


def _write_routing(file: Path, events: Sequence[dict[str, np.ndarray]]) -> None:
    _write_table(file, {name: np.concatenate([one[name] for one in events]) for name in events[0]})


def _write_table(file: Path, columns: dict[str, Any]) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(columns)
    write_whole(file, lambda stream: pyarrow.parquet.write_table(table, stream, compression="zstd"))
