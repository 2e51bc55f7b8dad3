"""A run as one zip file: its Parquet files as they are, and tables to read anywhere."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np

from lens.errors import LensError
from lens.many_prompts.run_events import ask
from lens.many_prompts.run_record import NoRunError, Run
from lens.many_prompts.run_statistics import run_traces
from lens.storage.csv_text import table_csv

# Rows of routing up to which they are written as CSV too.
MOST_CSV_ROWS = 300_000
MOST_BYTES = 2**30
README = """A run of {n_prompts} prompts ({n_tokens} tokens).

Model: {model_name}, {dtype}, SHA-256 of its routers {model_sha256}.

prompts.parquet, prompts.csv   prompt, label, text, n_tokens
tokens.parquet                 prompt, position, token (id), piece
routing-NNNNN.parquet          prompt, position, token, layer, slot, expert, gate, margin
load_by_prompt.csv             (token, choice) assignments of each expert in each prompt
{routing_csv}
layer is the model's own number of it. slot 0 is the first choice. gate is the expert's weight as it
is applied. margin is the K-th largest of what experts are chosen by (logits, or scores) less the
next. Numbers of experts carry no meaning across layers.
"""


def run_zip(run: Run) -> bytes:
    """The run for keeps; texts of cells that a spreadsheet would run begin with a quote.

    Raises:
        LensError: the run has been deleted, is not whole, or is too large for one download.
    """
    size = sum(_size(file) for file in _files(run))
    if size > MOST_BYTES:
        raise LensError(
            f"The files of this run have {size:,} bytes; at most {MOST_BYTES:,} are packed for a "
            "download. Copy them from the folder of runs."
        )
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        rows = ask(run, "SELECT count(*) AS n FROM read_parquet($routing)")["n"][0]
        csv = rows <= MOST_CSV_ROWS
        archive.writestr("README.txt", _readme(run, csv))
        archive.writestr("run.json", json.dumps(_record(run), indent=1))
        for file in _files(run):
            try:
                archive.write(file, file.name, zipfile.ZIP_STORED)  # compressed as they are
            except FileNotFoundError as error:
                raise NoRunError("This run has been deleted.") from error
        archive.writestr("prompts.csv", _prompts(run))
        archive.writestr("load_by_prompt.csv", _loads(run))
        if csv:
            archive.writestr("routing.csv", _routing(run))
    return buffer.getvalue()


def _files(run: Run) -> list[Path]:
    return [run.events / "prompts.parquet", run.events / "tokens.parquet", *run.routing_files]


def _size(file: Path) -> int:
    try:
        return int(file.stat().st_size)
    except OSError as error:
        raise NoRunError("This run has been deleted, or is not finished.") from error


def _readme(run: Run, csv: bool) -> str:
    line = "routing.csv                    the rows of all routing files\n" if csv else ""
    return README.format(**run.__dict__, routing_csv=line)


def _record(run: Run) -> dict[str, object]:
    """Description of the run, without its id and owner, which open it to others."""
    return {
        "model_name": run.model_name,
        "model_sha256": run.model_sha256,
        "dtype": run.dtype,
        "n_experts": run.n_experts,
        "n_prompts": run.n_prompts,
        "n_tokens": run.n_tokens,
        "prompts_of_label": dict(run.by_label),
        "created": run.created,
    }


def _prompts(run: Run) -> str:
    found = ask(
        run, "SELECT prompt, label, n_tokens, text FROM read_parquet($prompts) ORDER BY prompt"
    )
    return table_csv(
        {
            "prompt": found["prompt"],
            "label": [safe(label) for label in found["label"]],
            "n_tokens": found["n_tokens"],
            "text": [safe(text) for text in found["text"]],
        }
    )


def _loads(run: Run) -> str:
    folder = run_traces(run)
    prompt, layer, expert = (grid.ravel() for grid in np.indices(folder.counts.shape))
    return table_csv(
        {
            "prompt": prompt,
            "label": [safe(folder.labels[folder.label_of[i]]) for i in prompt],
            "layer": folder.layer_ids[layer],
            "expert (index in its layer)": expert,
            "assignments (tokens x choices)": folder.counts.ravel(),
        }
    )


def _routing(run: Run) -> str:
    found = ask(
        run,
        "SELECT r.prompt, r.position, r.token, t.piece, r.layer, r.slot, r.expert, r.gate, "
        "r.margin FROM read_parquet($routing) r JOIN read_parquet($tokens) t "
        "ON t.prompt = r.prompt AND t.position = r.position "
        "ORDER BY r.prompt, r.position, r.layer, r.slot",
    )
    return table_csv(found | {"piece": [safe(piece) for piece in found["piece"]]})


def safe(text: object) -> str:
    """Text that a spreadsheet takes for text, whatever it begins with."""
    words = str(text)
    return f"'{words}" if words[:1] in ("=", "+", "-", "@", "\t", "\r") else words
