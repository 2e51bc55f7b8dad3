"""Activations for training: computed as they are needed, or read from a collection.

A block of many batches is made at once. A streamed model takes it through its layers in one pass
over its weights, or as few as its memory allows, and that pass feeds all sites.

Axes: S sites, B tokens of a batch, R tokens of a block, D width, K experts a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from grok.dictionaries.kinds.design import Design
from grok.dictionaries.training.losses import Batch
from grok.dictionaries.training.windows import Order, Windows, evenly
from grok.errors import GrokError
from grok.experiments.collecting import BATCH_TOKENS, Passes
from grok.experiments.collection import Collection
from grok.interventions.edits import NO_EDITS, Edits
from grok.interventions.sites import HookPoint

if TYPE_CHECKING:
    from grok.runner.model import Model

# How much longer than elsewhere values at position 0 are where they are left out.
OUTLIER = 3.0
SAMPLED_WINDOWS = 64
EXPERTS = "router.experts"


class Values(Protocol):
    """Gives the values of windows."""

    def of(
        self, windows: Sequence[int], points: Sequence[HookPoint]
    ) -> Iterator[tuple[int, Mapping[HookPoint, np.ndarray]]]:
        """Each window and its values [T, …] by point, in any order; padding may follow."""
        ...


class Computed:
    """Values that the model computes now.

    Args:
        model: on its devices, or streamed.
        windows: of the text.
        edits: interventions in force.
        batch_tokens: padded tokens that are computed together.
    """

    def __init__(
        self,
        model: Model,
        windows: Windows,
        edits: Edits = NO_EDITS,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        self._model, self._windows = model, windows
        self._edits, self._batch_tokens = edits, batch_tokens

    def of(
        self, windows: Sequence[int], points: Sequence[HookPoint]
    ) -> Iterator[tuple[int, Mapping[HookPoint, np.ndarray]]]:
        passes = Passes(self._model, self._windows.tokens, points, self._edits, self._batch_tokens)
        for together in passes.together(windows):
            for chosen, result in zip(together, passes.run(together), strict=True):
                for row, window in enumerate(dict.fromkeys(chosen)):
                    yield window, {point: result.kept[point][row] for point in points}


class Stored:
    """Values of a finished collection, whose prompts are the windows.

    Raises:
        GrokError: it is not finished.
    """

    def __init__(self, collection: Collection, first_rows: np.ndarray) -> None:
        if not collection.finished:
            raise GrokError(f"{collection.folder}: not finished; collect again to go on.")
        self._collection, self._first_rows = collection, first_rows

    def of(
        self, windows: Sequence[int], points: Sequence[HookPoint]
    ) -> Iterator[tuple[int, Mapping[HookPoint, np.ndarray]]]:
        arrays = {point: self._collection.activations(str(point)) for point in points}
        for window in windows:
            first, last = self._first_rows[window : window + 2]
            yield window, {point: array[first:last] for point, array in arrays.items()}


def windows_of(collection: Collection, model_sha256: str) -> Windows:
    """The prompts of a collection as windows; their labels are its labels.

    Raises:
        GrokError: it is of another model, or its prompts cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if collection.manifest.get("model_sha256") != model_sha256:
        raise GrokError(f"{collection.folder}: collected from another model.")
    try:
        prompts = pq.read_table(collection.folder / "prompts.parquet").to_pydict()
        tokens = pq.read_table(collection.folder / "tokens.parquet")["token"].to_numpy()
        lengths, labels = np.array(prompts["n_tokens"]), [str(one) for one in prompts["label"]]
    except (OSError, KeyError, pa.ArrowException) as error:
        raise GrokError(f"{collection.folder}: its prompts cannot be read.") from error
    if lengths.sum() != len(tokens) or (lengths < 1).any():
        raise GrokError(f"{collection.folder}: prompts and tokens do not fit together.")
    names = tuple(dict.fromkeys(labels))
    pieces = np.split(tokens.astype(np.int32), np.cumsum(lengths)[:-1])
    return Windows(pieces, np.array([names.index(one) for one in labels], np.int32), names)


class Source:
    """Batches by step.

    Args:
        design: whose sites are needed.
        values: gives them.
        order: of the tokens; a block is a multiple of `batch`.
        batch: tokens of a step.
    """

    def __init__(self, design: Design, values: Values, order: Order, batch: int) -> None:
        self._design, self._values = design, values
        self.order, self.batch = order, batch
        self._block: tuple[int, Batch] | None = None

    def at(self, step: int) -> Batch:
        """The batch of a step, as the model has its values."""
        per_block = self.order.block // self.batch
        block, turn = divmod(step, per_block)
        rows = self.order.mixed(block)[turn * self.batch : (turn + 1) * self.batch]
        whole = self.block(block)
        chosen = None if whole.chosen is None else whole.chosen[:, rows]
        x = whole.x[:, rows]
        y = x if whole.y is whole.x else whole.y[:, rows]
        return Batch(x, y, chosen)

    def block(self, block: int) -> Batch:
        """All tokens of a block, not mixed; kept until another is asked for."""
        if self._block is None or self._block[0] != block:
            self._block = None  # its memory goes before the next takes its own
            self._block = block, self._made(block)
        return self._block[1]

    def _made(self, block: int) -> Batch:
        return taken(self._design, self._values, *_in_windows(self.order, block))


def _in_windows(order: Order, block: int) -> tuple[np.ndarray, np.ndarray]:
    places = order.places(block)
    return places.window, places.position


def taken(design: Design, values: Values, window: np.ndarray, position: np.ndarray) -> Batch:
    """Values of some tokens.

    Args:
        design: whose sites are needed.
        values: gives them.
        window, position: of each token [R].
    """
    sources, targets = design.sources, design.targets
    same = sources == targets
    choices = [HookPoint(layer, EXPERTS) for layer in design.layers] if design.n_experts else []
    points = tuple(dict.fromkeys((*sources, *targets, *choices)))
    n, d = len(window), design.d_model
    x = np.empty((len(sources), n, d), np.float32)
    y = x if same else np.empty((len(targets), n, d), np.float32)
    chosen: np.ndarray | None = None
    by_window = np.argsort(window, kind="stable")
    ordered = window[by_window]
    for one, own in values.of(list(dict.fromkeys(window.tolist())), points):
        first, last = np.searchsorted(ordered, [one, one + 1])
        rows = by_window[first:last]
        at = position[rows]
        for i, point in enumerate(sources):
            x[i, rows] = own[point][at]
        for i, point in enumerate(() if same else targets):
            y[i, rows] = own[point][at]
        for i, point in enumerate(choices):
            if chosen is None:
                chosen = np.full((len(choices), n, own[point].shape[-1]), -1, np.int32)
            chosen[i, rows] = own[point][at]
    return Batch(x, y, chosen)  # type: ignore[arg-type]


def first_position_ratio(design: Design, values: Values, windows: Windows) -> float:
    """How much longer values at position 0 are than elsewhere: the largest ratio of all sites."""
    some = evenly(len(windows.tokens), SAMPLED_WINDOWS)
    some = some[windows.lengths[some] > 1]
    if not len(some):
        return 1.0
    points = tuple(dict.fromkeys((*design.sources, *design.targets)))
    first = {point: [] for point in points}  # type: dict[HookPoint, list[float]]
    others = {point: [] for point in points}  # type: dict[HookPoint, list[float]]
    for window, own in values.of(some.tolist(), points):
        for point, value in own.items():
            norms = np.linalg.norm(
                np.asarray(value[: windows.lengths[window]], np.float64), axis=-1
            )
            first[point].append(norms[0])
            others[point].append(float(np.median(norms[1:])))
    return max(float(np.median(first[p]) / max(np.median(others[p]), 1e-12)) for p in points)
