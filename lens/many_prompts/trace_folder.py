"""Many saved traces of one model, with a label for each: what is kept of them, and opening.

Axes: trace (N), layer (L), token (T, of all traces one after the other), expert (E),
choice (K), group (G, the traces of one label).

Traces are read one at a time. Kept are the tokens, the chosen experts and, by trace, the
counts of experts and mean margins and entropies; logits, probabilities and texts are let go.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from grok.errors import plain
from lens.errors import LensError
from lens.traces.protocols import layer_numbers
from lens.traces.routing import entropy, margin
from lens.traces.trace import Trace, load_trace

MAX_TRACES = 2000
MAX_CHOICES = 2**28  # (layer, token, choice) numbers that are kept, 2 bytes each
MAX_LABELS = 50
MAX_LABEL = 80
MAX_LABEL_FILE = 10 * 2**20
UNLABELLED = "all"


@dataclass(frozen=True, eq=False)
class TraceFolder:
    """Tokens, experts and counts of many traces of one model.

    Attributes:
        names: of the traces, as files or as given.
        labels: different labels, in order.
        label_of: for each trace the number of its label.
        tokens: ids of all tokens, trace after trace.
        trace_of: for each token the number of its trace.
        experts: chosen by each token.
        n_experts: experts of a layer.
        counts: (token, choice) assignments that each expert received, by trace.
        margins: mean margin, by trace, in logits.
        entropies: mean entropy of the gates, by trace, in nats.
        model_sha256: identity of the routers that made them all.
        layer_ids: the model's own numbers of the layers.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    label_of: Int[np.ndarray, " trace"]
    tokens: Int[np.ndarray, " token"]
    trace_of: Int[np.ndarray, " token"]
    experts: Int[np.ndarray, "layer token choice"]
    n_experts: int
    counts: Int[np.ndarray, "trace layer expert"]
    margins: Float[np.ndarray, "trace layer"]
    entropies: Float[np.ndarray, "trace layer"]
    model_sha256: str
    layer_ids: Int[np.ndarray, " layer"]

    @property
    def n_traces(self) -> int:
        return len(self.names)

    @property
    def n_layers(self) -> int:
        return self.experts.shape[0]

    @property
    def top_k(self) -> int:
        return self.experts.shape[2]

    @cached_property
    def n_tokens(self) -> Int[np.ndarray, " trace"]:
        """Tokens of each trace."""
        return np.bincount(self.trace_of, minlength=self.n_traces)

    @cached_property
    def traces_of_label(self) -> Int[np.ndarray, " group"]:
        """Traces of each label."""
        return np.bincount(self.label_of, minlength=len(self.labels))


def load_folder(
    path: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    *,
    progress: Callable[[int, int, str], None] | None = None,
) -> TraceFolder:
    """All traces (.npz) of a folder and of its subfolders, one level down.

    Args:
        path: the folder.
        labels: a CSV file with the columns file and label, or JSON lines with these keys,
            naming files relative to the folder. Without it the names of subfolders are the
            labels; traces beside subfolders are refused then, for they would have none.
        progress: called with traces read, traces in all, and the next name.

    Raises:
        LensError: no traces, too many, not of one model, with experts banned, or labels that do
            not fit.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise LensError(
            f"{folder.name}: there is no such folder. Give a folder of traces (.npz), as "
            "`python -m grok.run --trace` saves them."
        )
    files = _files(folder)
    if labels is not None:
        known = read_labels(labels)
        by_name = _labels_of(files, known, Path(labels).name)
    else:
        by_name = _labels_by_folder(files)

    def opened() -> Iterator[tuple[str, str, Trace]]:
        for done, name in enumerate(files):
            if progress is not None:
                progress(done, len(files), name)
            yield name, by_name[name], load_trace(folder / name)

    return gather(opened())


def gather(traces: Iterable[tuple[str, str, Trace]]) -> TraceFolder:
    """Gathers traces that come one by one, each with its name and its label.

    Raises:
        LensError: none, too many, with experts banned, or not of one model: the message lists
            the groups.
    """
    kept = _Kept()
    for name, label, trace in traces:
        kept.add(name, _checked_label(label, name), trace)
    return kept.folder()


class _Kept:
    """The parts of a folder while its traces come in."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.labels: list[str] = []
        self.models: dict[tuple[str, tuple[int, int, int]], list[str]] = {}
        self.tokens: list[np.ndarray] = []
        self.experts: list[np.ndarray] = []
        self.counts: list[np.ndarray] = []
        self.margins: list[np.ndarray] = []
        self.entropies: list[np.ndarray] = []
        self.layer_ids = np.zeros(0, np.int64)
        self.size = 0

    def add(self, name: str, label: str, trace: Trace) -> None:
        if len(self.names) == MAX_TRACES:
            raise LensError(
                f"More than {MAX_TRACES:,} traces; at most so many are compared at once. Take "
                "fewer."
            )
        n_layers, _, n_experts = trace.router_logits.shape
        self.layer_ids = layer_numbers(trace)
        shape = (n_layers, n_experts, trace.experts.shape[2])
        self.models.setdefault((trace.model_sha256, shape), []).append(name)
        self.names.append(name)
        self.labels.append(label)
        if len(self.models) > 1:
            return  # only to list the groups in the message
        self.size += trace.experts.size
        if self.size > MAX_CHOICES:
            raise LensError(
                f"{name}: with it the traces hold more than {MAX_CHOICES:,} (layer, token, choice) "
                "numbers. Take fewer or shorter traces."
            )
        if not np.isfinite(trace.router_logits).all():
            raise LensError(
                f"{name}: experts were banned in this trace, so their router logits are minus "
                "infinity and have no mean; expected finite logits. Use the trace of the prompt as "
                "it is."
            )
        experts = trace.experts.astype(np.uint16)
        self.tokens.append(np.asarray(trace.tokens, dtype=np.int32))
        self.experts.append(experts)
        self.counts.append(
            np.stack([np.bincount(layer.ravel(), minlength=n_experts) for layer in experts])
        )
        choosing = shape[2] < n_experts
        self.margins.append(margin(trace).mean(axis=1) if choosing else np.full(n_layers, np.nan))
        self.entropies.append(entropy(trace).mean(axis=1))

    def folder(self) -> TraceFolder:
        if not self.names:
            raise LensError("Found no traces; expected at least one .npz that holds a trace.")
        if len(self.models) > 1:
            raise LensError(_several_models(self.models))
        labels = tuple(sorted(set(self.labels)))
        if len(labels) > MAX_LABELS:
            raise LensError(
                f"{len(labels)} different labels; at most {MAX_LABELS} are compared. Use labels "
                "that several traces share."
            )
        number = {label: i for i, label in enumerate(labels)}
        lengths = [len(tokens) for tokens in self.tokens]
        ((sha256, (_, n_experts, _)),) = self.models
        return TraceFolder(
            names=tuple(self.names),
            labels=labels,
            label_of=np.array([number[label] for label in self.labels]),
            tokens=np.concatenate(self.tokens),
            trace_of=np.repeat(np.arange(len(lengths)), lengths),
            experts=np.concatenate(self.experts, axis=1),
            n_experts=n_experts,
            counts=np.stack(self.counts),
            margins=np.stack(self.margins),
            entropies=np.stack(self.entropies),
            model_sha256=sha256,
            layer_ids=self.layer_ids,
        )


def _several_models(models: dict[tuple[str, tuple[int, int, int]], list[str]]) -> str:
    groups = []
    for (sha256, (n_layers, n_experts, top_k)), names in list(models.items())[:6]:
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        groups.append(
            f"routers {sha256[:12]} ({n_layers} layers, top {top_k} of {n_experts}): "
            f"{len(names)} traces ({shown})"
        )
    more = "; and more" if len(models) > 6 else ""
    return (
        f"The traces come from {len(models)} models; expected one. Found {'; '.join(groups)}"
        f"{more}. Keep the traces of one model in a folder."
    )


def _files(folder: Path) -> list[str]:
    """Names of the traces, relative to the folder, in order."""
    found = []
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            found += [f"{path.name}/{one.name}" for one in sorted(path.glob("*.npz"))]
        elif path.suffix == ".npz":
            found.append(path.name)
        if len(found) > MAX_TRACES:
            raise LensError(
                f"{folder.name}: more than {MAX_TRACES:,} .npz files; at most so many are "
                "compared at once. Take fewer."
            )
    if not found:
        raise LensError(
            f"{folder.name}: no .npz files in it or its subfolders; expected traces, as "
            "`python -m grok.run --trace` saves them."
        )
    return found


def _labels_by_folder(files: list[str]) -> dict[str, str]:
    labels = {name: name.split("/")[0] if "/" in name else "" for name in files}
    if not any(labels.values()):
        return dict.fromkeys(files, UNLABELLED)
    bare = [name for name, label in labels.items() if not label]
    if bare:
        raise LensError(
            f"{len(bare)} traces lie beside the subfolders, whose names are the labels, so they "
            f"have none: {_listed(bare)}. Move them into a subfolder, or give a file of labels."
        )
    return labels


def _labels_of(files: list[str], known: dict[str, str], where: str) -> dict[str, str]:
    missing = [name for name in files if name not in known]
    if missing:
        raise LensError(
            f"{where}: no label for {len(missing)} of {len(files)} traces: {_listed(missing)}. Add "
            "a row for each, with the name relative to the folder."
        )
    gone = sorted(set(known) - set(files))
    if gone:
        raise LensError(
            f"{where}: {len(gone)} files are named that are not in the folder: {_listed(gone)}. "
            "Check the names."
        )
    return {name: known[name] for name in files}


def read_labels(source: str | os.PathLike[str] | bytes) -> dict[str, str]:
    """Labels by file name, from a CSV with the columns file and label or from JSON lines.

    Args:
        source: a path, or the bytes of such a file.

    Raises:
        LensError: it cannot be read, a column is missing, or a file is named twice.
    """
    if isinstance(source, bytes):
        where, content = "the file of labels", source
    else:
        where = plain(Path(source).name, 120)
        try:
            with open(source, "rb") as file:
                content = file.read(MAX_LABEL_FILE + 1)
        except OSError as error:
            raise LensError(f"{where}: {error.strerror}. Check the path.") from error
    if len(content) > MAX_LABEL_FILE:
        raise LensError(
            f"{where}: it is larger than {MAX_LABEL_FILE:,} bytes. Is it the right file?"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LensError(
            f"{where}: it is not UTF-8 text; expected CSV with the columns file and label, or JSON "
            "lines with these keys."
        ) from error
    rows = _json_rows(text, where) if text.lstrip().startswith("{") else _csv_rows(text, where)
    labels: dict[str, str] = {}
    for number, (file_name, label) in rows:
        if file_name in labels:
            raise LensError(
                f"{where}, line {number}: {plain(file_name, 80)} is named twice. Keep one row."
            )
        labels[file_name] = _checked_label(label, f"{where}, line {number}")
    if not labels:
        raise LensError(f"{where}: it names no files; expected one row for each trace.")
    return labels


def _csv_rows(text: str, where: str) -> Iterator[tuple[int, tuple[str, str]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = reader.fieldnames or []
        if not {"file", "label"} <= set(columns):
            raise LensError(
                f"{where}: found the columns {plain(', '.join(columns), 120) or 'none'}; expected "
                "file and label in the first line."
            )
        for row in reader:
            yield reader.line_num, (row["file"] or "", row["label"] or "")
    except csv.Error as error:
        raise LensError(
            f"{where}, line {reader.line_num}: it is not CSV. Save it again with the columns file "
            "and label."
        ) from error


def _json_rows(text: str, where: str) -> Iterator[tuple[int, tuple[str, str]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not all(
            isinstance(row.get(key), str) for key in ("file", "label")
        ):
            raise LensError(
                f'{where}, line {number}: expected {{"file": "name.npz", "label": "text"}}. '
                "Correct this line."
            )
        yield number, (row["file"], row["label"])


def _checked_label(label: str, where: str) -> str:
    label = label.strip()
    if not label or len(label) > MAX_LABEL or not label.isprintable():
        raise LensError(
            f"{where}: found the label '{plain(label, 40)}'; expected 1 to {MAX_LABEL} printable "
            "characters. Correct the label."
        )
    return label


def _listed(names: list[str]) -> str:
    return ", ".join(plain(name, 80) for name in names[:5]) + (", …" if len(names) > 5 else "")
