"""A pass over text that gives a database of a dictionary's features.

The sums of a pass are saved every few parts; ended and taken up again it gives the same. A second
reading, of the windows that contexts were chosen from, gives the strengths at their tokens.

    OUTPUT.run/state-0-of-1.npz    sums of a shard, and how many of its parts they are of
    OUTPUT.run/sample-00012.npz    a sampled part
    OUTPUT.run/values.npz          strengths at the tokens of contexts, and how far they go
    OUTPUT.run/progress.json       stage, tokens done and in all
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grok.dictionaries.indexing import columns
from grok.dictionaries.indexing.contexts import HIGHEST, LOWEST
from grok.dictionaries.indexing.counts import Classes, Counts
from grok.dictionaries.indexing.examples import KINDS, Chosen, chosen_examples, take_rows
from grok.dictionaries.indexing.findings import (
    likeness_of,
    router_columns_of,
    routes_of,
    sampled_of,
)
from grok.dictionaries.indexing.plan import Plan, Text
from grok.dictionaries.indexing.reading import Reader
from grok.dictionaries.indexing.sample import read_sampled, write_sampled
from grok.dictionaries.indexing.tables import MANIFEST, write_manifest, write_table
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.errors import GrokError
from grok.files import write_whole

if TYPE_CHECKING:
    from grok.runner.model import Model

SAVE_EVERY = 32  # parts
FORM = 2  # of what a pass keeps
Progress = Callable[[str, int, int], object]


def _untold(stage: str, done: int, of: int) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class Indexing:
    """A pass.

    Attributes:
        model: of the dictionary.
        dictionary: whose features are described.
        sha256: of the dictionary's file.
        text: that is read.
        plan: how much is kept.
        output: folder of the database.
        progress: told (stage, tokens done, tokens in all).
    """

    model: Model
    dictionary: Dictionary
    sha256: str
    text: Text
    plan: Plan
    output: Path
    progress: Progress = _untold

    @property
    def work(self) -> Path:
        """The folder of what is not finished."""
        return self.output.with_name(self.output.name + ".run")

    @cached_property
    def reader(self) -> Reader:
        rows = max(int(self.text.lengths.max()), self.plan.part)
        return Reader(self.model, self.dictionary, self.text, rows)

    @cached_property
    def parts(self) -> list[list[int]]:
        return self.text.parts(self.plan)

    @cached_property
    def classes(self) -> Classes:
        return Classes(self.text, self.reader.skipped)

    @cached_property
    def shown(self) -> np.ndarray:
        """Windows that contexts may come from."""
        return self.text.held_out | (not self.plan.held_out_only)

    @cached_property
    def identity(self) -> str:
        return f"{self.sha256} {self.model.sha256} {self.text.sha256(self.plan)} {FORM}"

    def counts(self) -> Counts:
        """Sums of nothing yet."""
        design, config = self.dictionary.design, self.model.config
        shape = (len(self.reader.layers), config.n_experts)
        n = len(self.text.names)
        return Counts(len(design.groups), design.features, shape, n, self.plan)

    def read_shard(self, shard: int = 0, shards: int = 1) -> Counts:
        """The sums of every `shards`-th part from `shard` on; goes on where it was ended.

        Raises:
            GrokError: the folder is of another pass, or cannot be written.
        """
        counts, mine = self.counts(), list(range(len(self.parts)))[shard::shards]
        sampled, features = self.text.sampled(self.plan), self.dictionary.design.features
        file = self.work / f"state-{shard}-of-{shards}.npz"
        kept = self._kept(file)
        first = 0
        if kept is not None:
            counts.restore(kept)
            first = int(kept["done"])
        total = sum(len(self.text.tokens[w]) for i in mine for w in self.parts[i])
        done = sum(len(self.text.tokens[w]) for i in mine[:first] for w in self.parts[i])
        for turn in range(first, len(mine)):
            part = self.parts[mine[turn]]
            seen = self.reader.seen(part)
            counts.add(seen, self.classes, self.shown)
            if mine[turn] in sampled:
                self._saved(partial(write_sampled, self._sampled(mine[turn]), seen, features))
            done += sum(len(self.text.tokens[w]) for w in part)
            self._told("counting", done, total)
            if (turn + 1) % SAVE_EVERY == 0 or turn + 1 == len(mine):
                self._keep(file, {**counts.arrays(), "done": np.array(turn + 1)})
        return counts

    def merged(self, shards: int) -> Counts:
        """The sums of all shards.

        Raises:
            GrokError: one is missing or not finished.
        """
        whole = self.counts()
        for shard in range(shards):
            file = self.work / f"state-{shard}-of-{shards}.npz"
            kept = self._kept(file)
            mine = len(range(len(self.parts))[shard::shards])
            if kept is None or int(kept["done"]) < mine:
                raise GrokError(
                    f"{file}: shard {shard} of {shards} is not finished. Run the command for it "
                    "with --resume, then merge."
                )
            own = self.counts()
            own.restore(kept)
            whole.merge(own)
        return whole

    def finish(self, counts: Counts) -> None:
        """Writes the database of a whole pass.

        Raises:
            GrokError: it cannot be written.
        """
        self._told("sample", 0, 1)
        files = [self._sampled(i) for i in sorted(self.text.sampled(self.plan))]
        sample = read_sampled(files)
        alive, design = counts.sums["n"] > 0, self.dictionary.design
        columns_ = router_columns_of(self.model, self.text, self.reader.layers)
        routes = routes_of(counts, sample, self.dictionary, columns_, self.reader.layers)
        sampled = sampled_of(sample, self.dictionary, self.plan)
        del sample
        self._told("likeness", 0, 1)
        likeness = likeness_of(self.model, self.dictionary, alive, self.plan)
        alike = {
            "row": np.concatenate(
                [np.repeat(np.flatnonzero(alive), likeness.near.shape[1]), sampled.pairs.row]
            ),
            "other": np.concatenate([likeness.near[alive].ravel(), sampled.pairs.other]),
        }
        shown, judged = chosen_examples(
            counts.strongest.finished(),
            counts.reservoir.finished(),
            counts.sums["bins"],
            alike,
            self.text,
            self.plan,
            self.reader.skipped,
        )
        values = self._values(shown, judged)
        n, f = len(shown.row), design.features
        explained = counts.explained(self.classes)
        used = np.unique(np.concatenate([shown.window, judged.window]))
        tables: dict[str, columns.Columns] = {
            "features": columns.feature_columns(
                counts, explained, routes, likeness, sampled, design
            ),
            "examples": columns.example_columns(shown, values[:n], self.text, f, self.plan),
            "judged": columns.example_columns(judged, values[n:], self.text, f, self.plan),
            "routes": columns.route_columns(routes, alive, counts.shape, f, self.plan),
            "windows": columns.window_columns(self.text, used),
            "pieces": {"piece": self.model.pieces(range(self.model.config.vocab_size))},
        }
        if likeness.next is not None:
            tables["logits"] = columns.logit_columns(likeness.next, alive, f)
        for name, own in tables.items():
            self._saved(partial(write_table, self.output, name, own))
        write_manifest(self.output, self._facts(counts), list(tables))
        self._told("finished", 1, 1)

    def _facts(self, counts: Counts) -> dict[str, Any]:
        design, sums = self.dictionary.design, counts.sums
        plan = asdict(self.plan)
        sampled = [w for i in sorted(self.text.sampled(self.plan)) for w in self.parts[i]]
        return {
            "dictionary_sha256": self.sha256,
            "model": self.model.name,
            "model_sha256": self.model.sha256,
            "kind": design.kind,
            "reads": [str(point) for point in design.sources],
            "writes": [str(point) for point in design.targets],
            "groups": len(design.groups),
            "features": design.features,
            "layers": list(self.reader.layers),
            "experts": counts.shape[1],
            "labels": list(self.text.names),
            "tokens": int(sums["tokens"].sum()),
            "tokens_by_label": sums["tokens"].tolist(),
            "held_out_tokens": int(self.text.lengths[self.text.held_out].sum()),
            "sampled_tokens": sum(len(self.text.tokens[w]) for w in sampled),
            "sampled_windows": len(sampled),
            "chosen": (sums["chosen"] / max(1, sums["tokens"].sum())).tolist(),
            "bins": {"lowest": LOWEST, "highest": HIGHEST, "of": "strength, evenly in its log"},
            "kinds": list(KINDS),
            "plan": plan,
        }

    def _values(self, shown: Chosen, judged: Chosen) -> np.ndarray:
        """Strengths at the tokens of all contexts [N, T]."""
        both = Chosen(*(np.concatenate(one) for one in zip(shown, judged, strict=True)))
        width = self.plan.before + self.plan.after + 1
        values = np.zeros((len(both.row), width), np.float32)
        used = set(np.unique(both.window).tolist())
        parts = [part for part in self.parts if used & set(part)]
        file = self.work / "values.npz"
        kept, first = self._kept(file), 0
        if kept is not None and kept["values"].shape == values.shape:
            values, first = np.array(kept["values"]), int(kept["done"])
        for turn in range(first, len(parts)):
            part = parts[turn]
            take_rows(values, both, part, self._strengths(part), self.text, self.plan)
            self._told("contexts", turn + 1, len(parts))
            if (turn + 1) % SAVE_EVERY == 0 or turn + 1 == len(parts):
                self._keep(file, {"values": values, "done": np.array(turn + 1)})
        return values

    def _strengths(self, part: Sequence[int]) -> list[np.ndarray]:
        """Strengths of all features at the tokens of a part, from the sample where it has them."""
        number = self.parts.index(list(part))
        if self.reader.skipped or number not in self.text.sampled(self.plan):
            return self.reader.features(part)
        design, sample = self.dictionary.design, read_sampled([self._sampled(number)], mixed=False)
        rows = len(design.groups) * design.features
        whole = np.zeros((len(sample.token), rows), np.float32)
        whole[sample.at, sample.row] = sample.value
        return np.split(whole, len(design.groups), axis=1)

    def _sampled(self, part: int) -> Path:
        return self.work / f"sample-{part:05d}.npz"

    def _keep(self, file: Path, arrays: Mapping[str, np.ndarray]) -> None:
        def write(stream: Any) -> None:
            np.savez(stream, identity=np.array(self.identity), **arrays)  # type: ignore[arg-type]

        self._saved(lambda: write_whole(file, write))

    def _kept(self, file: Path) -> dict[str, np.ndarray] | None:
        """Arrays that were kept by this very pass; None where there are none."""
        try:
            with np.load(file, allow_pickle=False) as found:
                if str(found["identity"]) != self.identity:
                    raise GrokError(
                        f"{file}: of another pass: dictionary, model, text or plan are not these. "
                        f"Remove {self.work}, or choose another output."
                    )
                return {name: found[name] for name in found.files}
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise GrokError(
                f"{file}: damaged ({error!s:.80}). Remove {self.work} and begin again."
            ) from error

    def _saved(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            raise GrokError(
                f"{self.output}: cannot be written ({error.strerror or error}). Make room and go "
                "on with --resume."
            ) from error

    def _told(self, stage: str, done: int, of: int) -> None:
        self.progress(stage, done, of)
        text = json.dumps({"stage": stage, "done": done, "of": of})
        self._saved(lambda: write_whole(self.work / "progress.json", text.encode()))


def index(one: Indexing, *, resume: bool = False) -> None:
    """Runs a whole pass and writes its database.

    Args:
        one: the pass.
        resume: go on with one that was ended.

    Raises:
        GrokError: there is a database or a pass already, or the disk cannot be written.
    """
    check_begin(one, resume)
    one.finish(one.read_shard())


def check_begin(one: Indexing, resume: bool) -> None:
    """Refuses to write over a database, or to go on unasked."""
    if (one.output / MANIFEST).exists():
        raise GrokError(f"{one.output}: holds a database. Choose a new folder.")
    if not resume and one.work.exists() and any(_states(one.work)):
        raise GrokError(
            f"{one.work}: a pass stands there. Go on with --resume, or remove the folder."
        )


def _states(work: Path) -> Sequence[Path]:
    return list(work.glob("state-*.npz"))
