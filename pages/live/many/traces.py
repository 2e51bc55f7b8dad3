"""Many saved traces at once: a configured folder or uploads, grouped by a label of each trace."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import altair as alt
import numpy as np
import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.uploaded_file_manager import UploadedFile

from lens import figures
from lens.errors import LensError
from lens.escaping import as_markdown
from lens.findings import of_prompts
from lens.many_prompts import label_tests
from lens.many_prompts.label_tests import LabelTest
from lens.many_prompts.trace_folder import (
    UNLABELLED,
    TraceFolder,
    gather,
    load_folder,
    read_labels,
)
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.tables import traces as trace_tables
from lens.traces.trace import load_trace
from lens.words import significant
from pages.access.messages import told
from pages.guide import tables
from pages.live.one_trace import routing_shape, routing_statistics
from pages.shell import layout, links
from pages.shell.session_keys import SessionKey, SessionValue
from pages.shell.startup import startup_options

TRACES_VARIABLE = "GROK_LENS_TRACES"
LABELS_VARIABLE = "GROK_LENS_TRACE_LABELS"
INVITATION = "Compare saved traces by label: which experts do texts of each kind use?"
# Rows of the list of differences.
LISTED = 12
UPLOADED = SessionValue[tuple[tuple[tuple[str, ...], str], TraceFolder | None, str | None]](
    SessionKey.UPLOADED_TRACES
)
# Uploads: so many bytes of files at once.
MAX_UPLOAD = 256 * 2**20


def configured() -> tuple[str | None, str | None]:
    """`--traces` and `--trace-labels` after `--`, else the environment variables."""
    found = startup_options(traces=TRACES_VARIABLE, trace_labels=LABELS_VARIABLE)
    return found["traces"], found["trace_labels"]


@st.cache_resource(max_entries=2, show_spinner="Reading the folder of traces …")
def _folder(path: str, labels: str | None, state: str) -> TraceFolder:
    return load_folder(path, labels)


def _state_of(path: str, labels: str | None) -> str:
    """Hash of the files' times and sizes, so that a changed folder is read again."""
    digest = hashlib.sha256()
    names = [*Path(path).glob("*.npz"), *Path(path).glob("*/*.npz")]
    for file in [*sorted(names), *([Path(labels)] if labels else [])]:
        try:
            found = file.stat()
        except OSError:
            continue
        digest.update(f"{file.name}{found.st_mtime_ns}{found.st_size};".encode())
    return digest.hexdigest()


def _uploaded() -> TraceFolder | None:
    """The traces uploaded in this session, read once."""
    with st.expander(
        "Open traces", icon=":material/upload_file:", expanded=configured()[0] is None
    ):
        files = st.file_uploader(
            "Saved traces (.npz), several at once",
            type=["npz"],
            accept_multiple_files=True,
            key="many_uploads",
            help="Of one model. Files are checked, never executed, and seen by this browser "
            "session alone.",
        )
        sheet = st.file_uploader(
            "Labels: CSV with the columns file and label, or JSON lines (optional)",
            type=["csv", "jsonl", "json"],
            key="many_labels",
        )
    if not files:
        UPLOADED.drop()
        return None
    key = (tuple(file.file_id for file in files), sheet.file_id if sheet is not None else "")
    kept = UPLOADED.get()
    if kept is None or kept[0] != key:
        kept = (key, *_read(files, sheet))
        UPLOADED.set(kept)
    _, folder, error = kept
    if error is not None:
        st.error(as_markdown(error), icon=":material/error:")
    return folder


def _read(
    files: Sequence[UploadedFile], sheet: UploadedFile | None
) -> tuple[TraceFolder | None, str | None]:
    """The uploads as a folder, or why they are none."""
    try:
        size = sum(file.size for file in files)
        if size > MAX_UPLOAD:
            raise LensError(
                f"The files have {size:,} bytes; at most {MAX_UPLOAD:,} are opened at once here. "
                f"Start the app with {TRACES_VARIABLE} for a folder."
            )
        names = [file.name for file in files]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise LensError(f"Two files are called {twice[0]}. Rename one, or open one of them.")
        labels = dict.fromkeys(names, UNLABELLED)
        if sheet is not None:
            known = read_labels(sheet.getvalue())
            missing = [name for name in names if name not in known]
            if missing:
                raise LensError(
                    f"{sheet.name}: no label for {len(missing)} of {len(names)} traces: "
                    f"{', '.join(missing[:5])}. Add a row for each."
                )
            labels = {name: known[name] for name in names}
        return gather((file.name, labels[file.name], load_trace(file)) for file in files), None
    except LensError as error:
        return None, str(error)


def show(head: DeltaGenerator, routers: RouterSet, how_to_read: str) -> None:
    """The section: where the traces come from, and what they show together."""
    path, labels = configured()
    folder = _uploaded()
    if folder is None and path and UPLOADED.get() is None:
        try:
            folder = _folder(path, labels, _state_of(path, labels))
        except LensError as error:
            st.error(told(error), icon=":material/error:")
    if folder is None:
        with head:
            layout.heading("Live routing", INVITATION, how_to_read, routers)
        st.caption(
            "Save traces with “Save trace” under Inspect, or many with `python -m grok.run "
            f"--trace`. A folder opens with `--traces DIR` or {TRACES_VARIABLE}; its subfolders "
            f"are the labels, or a file named by `--trace-labels` or {LABELS_VARIABLE}."
        )
        layout.share(routers)
        return
    test, why = _test(folder)
    many = Many(folder, routers)
    with head:
        found = of_prompts.labels_and_experts(folder, test, "traces", many.labels)
        layout.heading("Live routing", [found], how_to_read, routers)
    _draw(many, test, why)
    layout.share(routers)


def _test(folder: TraceFolder) -> tuple[LabelTest | None, str]:
    try:
        return routing_statistics.label_test(routing_statistics.folder_key(folder), folder), ""
    except LensError as error:
        return None, str(error)


class Many:
    """The traces with what their figures have in common."""

    def __init__(self, folder: TraceFolder, routers: RouterSet, noun: str = "traces") -> None:
        self.folder = folder
        self.noun = noun  # what the labels are of
        self.routers = routers
        own = folder.model_sha256 == routers.sha256 and folder.n_layers == routers.n_layers
        self.labels = layout.layer_labels(routers) if own else [f"L{i}" for i in folder.layer_ids]
        self.key = routing_statistics.folder_key(folder)

    def figure(
        self, chart: alt.TopLevelMixin, key: str, **options: Unpack[layout.FigureOptions]
    ) -> None:
        """A figure whose files say how many traces it is of."""
        what = f"{self.folder.n_traces} {self.noun}"
        layout.figure(chart, key, layout.of_model(self.folder.model_sha256, what), **options)


def _draw(many: Many, test: LabelTest | None, why: str) -> None:
    folder = many.folder
    if folder.model_sha256 != many.routers.sha256:
        st.caption(
            f"The traces were made by a model with routers `{folder.model_sha256[:12]}`, not by "
            "the routers that the other pages show."
        )
    _overview(many)
    names = {"labels": "Labels", "many_information": "Information", "many_order": "Repeats"}
    for tab, container in links.tabs("many", names):
        with container:
            if tab == "labels":
                by_label(many, test, why)
            elif tab == "many_information":
                information(many)
            else:
                repeats(many)


def _overview(many: Many) -> None:
    """One row for each label."""
    folder = many.folder
    effective = label_tests.effective_by_label(label_tests.load_by_label(folder))
    rows = []
    for group, label in enumerate(folder.labels):
        own = folder.label_of == group
        rows.append(
            {
                "label": label,
                "traces": int(own.sum()),
                "tokens": int(folder.n_tokens[own].sum()),
                "effective experts, mean over layers": round(float(effective[group].mean()), 2),
                "margin, mean": round(float(folder.margins[own].mean()), 4),
                "entropy, mean (nats)": round(float(folder.entropies[own].mean()), 4),
            }
        )
    tables.show(rows)


def by_label(
    many: Many, test: LabelTest | None, why: str, picked: tuple[int, int] | None = None
) -> None:
    """Loads of the experts of one layer under each label, and their tests.

    Args:
        many: the texts.
        test: of their labels; None where they cannot be compared.
        why: the reason for that.
        picked: layer and expert, where they are chosen elsewhere on the page.
    """
    folder = many.folder
    cell = None if test is None else of_prompts.strongest_label(test)
    first = 0 if cell is None else cell[1]
    layer = picked[0] if picked else layout.layer_choice(many.labels, default=first, width=160)
    name = many.labels[layer]
    load = label_tests.load_by_label(folder) if test is None else test.load
    if test is None:
        st.info(as_markdown(why))
    else:
        if test.note:
            st.warning(as_markdown(test.note), icon=":material/warning:")
        st.caption(
            f"Null: {test.test.method}, seed {test.seed}; smallest p that so many {many.noun} can "
            f"give: {significant(test.smallest_p, 2)}. Texts of different length or with different "
            "first tokens differ for that reason too."
        )
        many.figure(
            figures.chance_lines(
                {"label and expert": test.test},
                many.labels,
                title="What the label tells of the expert",
                unit="mutual information (nats)",
            ),
            "label_information",
            table=lambda: trace_tables.chance_csv({"label": test.test}, many.labels, "nats"),
        )
        many.figure(
            figures.label_lift(
                test.lift[:, layer],
                test.q[:, layer],
                load.share[:, layer],
                folder.labels,
                label=name,
            ),
            "label_lift",
            words=(name,),
            table=lambda: trace_tables.label_lift_csv(test, folder.labels, many.labels),
        )
    many.figure(
        figures.label_load(
            load.share[:, layer], load.low[:, layer], load.high[:, layer], folder.labels, label=name
        ),
        "label_load",
        words=(name,),
        table=lambda: _load_table(many, load),
    )
    if test is not None:
        _differences(many, test)


def _load_table(many: Many, load: label_tests.LabelLoad) -> str:
    group, layer, expert = (grid.ravel() for grid in np.indices(load.share.shape))
    return csv_text.table_csv(
        {
            "label": np.asarray(many.folder.labels)[group],
            "layer": np.asarray(many.labels)[layer],
            "expert (index in its layer)": expert,
            "load (share of assignments)": load.share.ravel(),
            "interval over traces, low": load.low.ravel(),
            "interval over traces, high": load.high.ravel(),
        }
    )


def _differences(many: Many, test: LabelTest) -> None:
    """The largest differences between a label and the others, each with its q."""
    rare = np.nan_to_num(test.q, nan=1) <= 0.05
    if not rare.any():
        st.caption("No expert's load under a label differs from the others at q ≤ 0.05.")
        return
    strength = np.where(rare, np.abs(test.difference), -1)
    order = np.argsort(-strength, axis=None)[: min(LISTED, int(rare.sum()))]
    group, layer, expert = np.unravel_index(order, strength.shape)
    st.caption(f"The largest of {int(rare.sum()):,} differences at q ≤ 0.05:")
    tables.show(
        [
            {
                "label": many.folder.labels[g],
                "expert": f"{many.labels[row]}·E{e}",
                "load": round(float(test.load.share[g, row, e]), 4),
                "difference to the other labels": round(float(test.difference[g, row, e]), 4),
                "lift": round(float(test.lift[g, row, e]), 2),
                "q": float(test.q[g, row, e]),
            }
            for g, row, e in zip(group, layer, expert, strict=True)
        ],
    )


def information(many: Many) -> None:
    """Information of token id and of position on the experts."""
    found = {"token id": routing_statistics.folder_token_information(many.key, many.folder)}
    st.markdown(routing_shape.information_finding(found["token id"]))
    try:
        found["position"] = routing_statistics.folder_position_information(many.key, many.folder)
        st.markdown(routing_shape.information_finding(found["position"]))
    except LensError as error:
        st.caption(told(error))
    routing_shape.information_figure(found, many.labels, many.figure, "many_information")


def repeats(many: Many) -> None:
    """Experts that neighbouring tokens share, beside shuffled tokens."""
    try:
        test = routing_statistics.folder_repeats(many.key, many.folder)
    except LensError as error:
        st.info(told(error))
        return
    tests = {"first choice": test.first, "any choice": test.any}
    many.figure(
        figures.chance_lines(
            tests,
            many.labels,
            title="Neighbouring tokens with the same expert",
            unit="share of neighbouring tokens",
        ),
        "many_repeats",
        table=lambda: trace_tables.chance_csv(tests, many.labels, "share of neighbours"),
    )
    st.caption(f"Null: {test.first.method}, seed {test.first.seed}; p two-sided.")
