"""`python -m lens.features.explain FOLDER`: explains all features of a database.

Searches a rule for each feature in half of its held-out contexts and judges it on the other half,
of other windows, beside random contexts and such where a feature that is alike is active. Writes
`explanations.parquet` into the folder. Nothing is sent anywhere, unless --language-model asks the
endpoint that GROK_LENS_EXPLAINER_URL names, for so many features.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lens.errors import LensError
from lens.features.explaining.excerpts import Excerpts, all_excerpts
from lens.features.explaining.judging import Explainer, Scores, judged
from lens.features.explaining.language_model import explainer_of_environment
from lens.features.explaining.predicates import Vocabulary
from lens.features.explaining.templates import TemplateExplainer
from lens.features.store import FeatureStore
from lens.features.summary import MANIFEST
from lens.features.tables import EXPLANATIONS
from lens.storage.whole_file import READABLE, whole_file

LONGEST = 400  # characters of an explanation


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m lens.features.explain", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--language-model", type=int, default=0, metavar="N",
        help="ask the configured endpoint for the N features that are active most",
    )  # fmt: skip
    parser.add_argument(
        "--small", action="store_true",
        help="take out what explanations were judged by, to keep or ship less",
    )  # fmt: skip
    args = parser.parse_args(argv)
    try:
        store = FeatureStore.open(args.folder)
        asked = explainer_of_environment(store.pieces) if args.language_model else None
        if args.language_model and asked is None:
            raise LensError(
                "No language model is configured. Name an endpoint in GROK_LENS_EXPLAINER_URL and "
                "its model in GROK_LENS_EXPLAINER_MODEL, or leave --language-model out."
            )
        n = write_explanations(store, asked, args.language_model, told=_told)
        if args.small:
            make_small(args.folder)
    except LensError as error:
        print(f"lens.features.explain: {error}", file=sys.stderr)
        return 2
    print(f"{args.folder}: {n:,} features explained")
    return 0


def _told(done: int) -> None:
    if done % 500 == 0:
        print(f"{done:,} features", file=sys.stderr, flush=True)


def explanations(
    store: FeatureStore, model: Explainer | None = None, most: int = 0
) -> Iterator[dict[str, Any]]:
    """A row for each feature that can be explained.

    Args:
        store: with contexts to judge by.
        model: explains some features instead of rules; the rule stays where it scores better.
        most: the features that are active most, which the model explains.

    Raises:
        LensError: contexts are missing, or the model does not answer.
    """
    rules = TemplateExplainer(Vocabulary(store.pieces), store.summary().labels)
    asked = set()
    if model is not None and most:
        found = store.tables.ask(
            'SELECT "group", feature FROM read_parquet($features) ORDER BY n DESC, "group", '
            "feature LIMIT $most",
            most=most,
        )
        asked = set(zip(found["group"].tolist(), found["feature"].tolist(), strict=True))
    for group, feature, excerpts in all_excerpts(store):
        explainers: list[Explainer] = [rules]
        if model is not None and (group, feature) in asked:
            explainers.append(model)
        best = max(
            (one for one in (_row(own, excerpts) for own in explainers) if one),
            key=lambda one: (one[1].detection == one[1].detection, one[1].detection),
            default=None,
        )
        if best is not None:
            row, scores = best
            numbers = ("detection", "low", "high", "fuzzing", "contexts")
            yield {"group": group, "feature": feature, **row} | {
                name: getattr(scores, name) for name in numbers
            }


def _row(explainer: Explainer, excerpts: Excerpts) -> tuple[dict[str, str], Scores] | None:
    seen, unseen = excerpts.halves()
    proposal = explainer.explain(seen)
    if proposal is None:
        return None
    text = proposal.text[:LONGEST]
    return {"text": text, "explainer": explainer.name}, judged(proposal.judge, unseen)


def write_explanations(
    store: FeatureStore,
    model: Explainer | None = None,
    most: int = 0,
    *,
    told: Callable[[int], object] = lambda done: None,
) -> int:
    """Explains all features and writes the table beside the others; gives how many.

    Raises:
        LensError: as `explanations`, or the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for row in explanations(store, model, most):
        rows.append(row)
        told(len(rows))
    schema = pa.schema(
        [
            ("group", pa.int16()),
            ("feature", pa.int32()),
            ("text", pa.string()),
            ("explainer", pa.string()),
            *((name, pa.float32()) for name in ("detection", "low", "high", "fuzzing")),
            ("contexts", pa.int16()),
        ]
    )
    file = store.folder / f"{EXPLANATIONS}.parquet"
    try:
        with whole_file(file, mode=READABLE) as stream:
            pq.write_table(
                pa.Table.from_pylist(rows, schema),
                stream,
                compression="zstd",
                compression_level=9,
                row_group_size=2048,
                write_page_checksum=True,
            )
    except OSError as error:
        raise LensError(
            f"{file}: not written ({error.strerror}). Make room, or the folder writable."
        ) from error
    return len(rows)


def make_small(folder: Path) -> None:
    """Takes the contexts that explanations were judged by out of a database.

    Raises:
        LensError: the folder cannot be written.
    """
    file = folder / MANIFEST
    try:
        text = json.loads(file.read_bytes())
        text["files"].pop("judged", None)
        with whole_file(file, mode=READABLE) as stream:
            stream.write(json.dumps(text, indent=1).encode())
        (folder / "judged.parquet").unlink(missing_ok=True)
    except OSError as error:
        raise LensError(f"{file}: not written ({error.strerror}). Free the folder.") from error


if __name__ == "__main__":
    sys.exit(main())
