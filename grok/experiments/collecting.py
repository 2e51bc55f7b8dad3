"""Runs many prompts and keeps their routing and activations; see `grok.experiments.collection`.

Prompts are taken in parts of some thousand tokens. Memory holds one pass's activations and one
part of routing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from grok.engine.compiled import Forward, bucket, padded
from grok.engine.engine import Batch
from grok.errors import GrokError
from grok.experiments.collection import (
    FORMAT_VERSION,
    PART_TOKENS,
    Collection,
    Columns,
    Manifest,
    Prompts,
    begin,
    part_tokens_of,
    routing_events,
    routing_file,
    write_manifest,
    write_routing,
    write_values,
)
from grok.interventions.edits import NO_EDITS, Edits
from grok.interventions.hooks import arrange_hooks
from grok.interventions.sites import (
    HookPoint,
    Site,
    check_mixture,
    parse,
    row_bytes,
    site_names,
)
from grok.runner.interfaces import Prompt

if TYPE_CHECKING:
    from grok.runner.model import Model

BATCH_TOKENS = 2048
STORED = ("float32", "float16")

Progress = Callable[[int, int], object]
Turn = Callable[[], AbstractContextManager[object]]


# many parameters: the public door to a collection, all but three with a default
def collect(
    model: Model,
    prompts: Sequence[Prompt],
    folder: str | Path,
    *,
    labels: Sequence[str] | None = None,
    sites: str | Sequence[str] = (),
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
        model: on its devices.
        prompts: texts or token ids.
        folder: a new one, or one of the same collection.
        labels: one for each prompt.
        sites: full names of activations to keep, such as "layers[3].resid_post"; one or several.
        routing: keep the routing events.
        edits: interventions in force.
        stored: dtype of activations on disk, "float32" (holds every site exactly) or "float16".
        part_tokens: tokens after which progress is made safe; 20,000 by default, or what the
            memory of a streamed model has room for, which takes a part through its layers in one
            pass, or in few where padding is long. A collection goes on with its own.
        batch_tokens: padded tokens that are computed together.
        progress: told (tokens done, tokens in all); what it raises ends the run.
        turn: entered around each pass.

    Raises:
        GrokError: unusable prompts (named by their number), a folder of something else, or a
            disk that cannot be written.
    """
    if stored not in STORED:
        raise GrokError(f"stored is {stored!r}; expected {' or '.join(STORED)}.")
    own = encoded(model, prompts, labels)
    points = tuple(parse(name, model.config.n_layers) for name in site_names(sites))
    kept = _kept_sites(model, points, stored)
    folder = Path(folder)
    passes = Passes(model, own.tokens, points, edits, batch_tokens)
    room = passes.room
    if part_tokens is None:
        part_tokens = part_tokens_of(folder) or min(PART_TOKENS, room or PART_TOKENS)
    parts = parts_of(own.lengths, part_tokens)
    manifest: Manifest = {
        "format_version": FORMAT_VERSION,
        "model": model.name,
        "model_sha256": model.sha256,
        "settings": {"dtype": model.dtype, "interventions": edits.texts()},
        "n_prompts": len(own.tokens),
        "n_tokens": own.n_tokens,
        "prompts_sha256": own.sha256(),
        "sites": {site.name: {"axes": list(site.axes), "stored": stored} for site in kept},
        "routing": routing,
        "part_tokens": part_tokens,
        "parts": len(parts),
        "parts_done": 0,
    }
    run = _Run(passes, own, folder, manifest)
    try:
        manifest["parts_done"] = begin(folder, manifest, own, parts, kept, model.pieces)
        run.all_parts(parts, progress, turn)
    except OSError as error:
        raise GrokError(
            f"{folder}: the collection cannot be written ({error.strerror or error}). Free space "
            "or choose another folder; called again it goes on where it stopped."
        ) from error
    return Collection(folder, manifest)


def encoded(model: Model, prompts: Sequence[Prompt], labels: Sequence[str] | None) -> Prompts:
    """Prompts with their tokens and labels, checked.

    Raises:
        GrokError: an unusable prompt (named by its number), none at all, or another number of
            labels.
    """
    if isinstance(prompts, str):
        raise GrokError("prompts is one text; expected a list of them.")
    tokens = []
    for i, prompt in enumerate(prompts):
        try:
            tokens.append(model.encode(prompt))
        except GrokError as error:
            raise GrokError(f"Prompt {i}: {error}") from error
    if not tokens:
        raise GrokError("There are no prompts; expected at least one.")
    labels = [""] * len(tokens) if labels is None else [str(label) for label in labels]
    if len(labels) != len(tokens):
        raise GrokError(f"{len(labels)} labels for {len(tokens)} prompts; expected one for each.")
    pairs = zip(prompts, tokens, strict=True)
    texts = [one if isinstance(one, str) else model.text(ids) for one, ids in pairs]
    return Prompts(texts, tokens, labels)


def _kept_sites(model: Model, points: Sequence[HookPoint], stored: str) -> list[Site]:
    """The sites of hook points, with the dtype in which they are stored."""
    for point in points:
        check_mixture(point, model.config)
    listed = {site.name: site for site in model.sites()}
    found = [listed[str(point)] for point in points]
    return [site._replace(dtype="int32" if site.dtype == "int32" else stored) for site in found]


def parts_of(lengths: Sequence[int], part_tokens: int) -> list[list[int]]:
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


def batches_of(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
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


@dataclass(frozen=True)
class Passes:
    """Prompts on their way through a model, in batches that go through its layers together.

    Attributes:
        model: on its devices, or streamed.
        tokens: of each prompt [T].
        points: whose values are kept.
        edits: interventions in force.
        batch_tokens: padded tokens that are computed together.
        candidates: next tokens to keep; without any, and with no point after the layers, there
            are no logits.
    """

    model: Model
    tokens: Sequence[np.ndarray]
    points: Sequence[HookPoint]
    edits: Edits = NO_EDITS
    batch_tokens: int = BATCH_TOKENS
    candidates: int = 0

    @cached_property
    def room(self) -> int | None:
        """Padded tokens that a pass of this model can have; None: as many as there are."""
        rows = self.model.engine.layers.max_rows(row_bytes(self.model.config, self.points))
        return None if rows is None else max(1, rows)

    def together(self, part: Sequence[int]) -> list[list[list[int]]]:
        """Batches of prompts that go through the layers together, for each pass of a part.

        A batch that is larger than the room goes alone.
        """
        lengths = [len(self.tokens[prompt]) for prompt in part]
        most = min(self.batch_tokens, self.room or self.batch_tokens)
        room = self.room if self.model.engine.tells else 1
        passes: list[list[list[int]]] = []
        left = 0
        for which in batches_of(lengths, most):
            size = len(which) * bucket(max(lengths[w] for w in which))
            if not passes or (room is not None and size > left):
                passes.append([])
                left = room or 0
            passes[-1].append([part[w] for w in which])
            left -= size
        return passes

    def run(self, together: Sequence[Sequence[int]]) -> list[Forward]:
        """The results of batches of prompts, in one pass over the weights."""
        return self.model.engine.run([self._batch(chosen) for chosen in together])

    def _batch(self, chosen: Sequence[int]) -> Batch:
        """The prompts of a batch, padded, with their hooks."""
        own = [self.tokens[prompt] for prompt in chosen]
        pad = self.model.engine.architecture.pad_token
        given, real, keys = padded(own, bucket(max(len(one) for one in own)), pad)
        repeated = [prompt in chosen[:row] for row, prompt in enumerate(chosen)]
        real[repeated] = False
        hooks = arrange_hooks(
            self.model.config,
            self.edits,
            wanted=self.points,
            lengths=[len(one) for one in own],
            padded=given.shape[1],
            positions=bucket(self.model.config.context_length),
        )
        return Batch(given, 0, keys, None, self.candidates, hooks, real)


@dataclass(frozen=True)
class _Run:
    """One call of `collect`; see there."""

    passes: Passes
    prompts: Prompts
    folder: Path
    manifest: Manifest

    def all_parts(
        self, parts: Sequence[Sequence[int]], progress: Progress | None, turn: Turn
    ) -> None:
        """Runs the parts that are not done, and counts each in the manifest when it is.

        A part that is counted and whose file is gone is run again.
        """
        todo = [i for i in range(len(parts)) if not self._is_done(i)]
        left = sum(self.prompts.lengths[prompt] for i in todo for prompt in parts[i])
        done = self.prompts.n_tokens - left
        if progress is not None:
            progress(done, self.prompts.n_tokens)
        for i in todo:
            events: list[Columns] = []
            for together in self.passes.together(parts[i]):
                with turn():
                    results = self.passes.run(together)
                for chosen, result in zip(together, results, strict=True):
                    events += self._keep(chosen, result)
                    done += sum(self.prompts.lengths[prompt] for prompt in set(chosen))
                if progress is not None:
                    progress(done, self.prompts.n_tokens)
            if self.manifest["routing"]:
                write_routing(routing_file(self.folder, i), events)
            self.manifest["parts_done"] = max(self.manifest["parts_done"], i + 1)
            write_manifest(self.folder, self.manifest)

    def _is_done(self, part: int) -> bool:
        """True of a part that the manifest counts and whose file is there."""
        counted = part < self.manifest["parts_done"]
        return counted and (
            not self.manifest["routing"] or routing_file(self.folder, part).is_file()
        )

    def _keep(self, chosen: Sequence[int], result: Forward) -> list[Columns]:
        """Writes a batch's values; gives the routing events of its prompts where they are kept."""
        events: list[Columns] = []
        for row, prompt in enumerate(dict.fromkeys(chosen)):
            tokens = self.prompts.tokens[prompt]
            if self.manifest["routing"]:
                layers = self.passes.model.config.moe_layers
                events.append(routing_events(prompt, tokens, result, row, layers))
            values = {str(point): result.kept[point][row] for point in self.passes.points}
            first = int(self.prompts.first_rows[prompt])
            write_values(self.folder, values, first, len(tokens))
        return events
