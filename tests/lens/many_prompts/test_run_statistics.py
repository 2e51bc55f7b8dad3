"""What a run shows: counted by hand, planted, and against the chance that is claimed."""

from __future__ import annotations

import csv
import io
import zipfile

import numpy as np
import pytest

from lens.errors import LensError
from lens.many_prompts import run_export
from lens.many_prompts.run_events import ask, layer_numbers
from lens.many_prompts.run_export import run_zip
from lens.many_prompts.run_record import NoRunError
from lens.many_prompts.run_statistics import run_label_test, run_traces
from lens.many_prompts.run_store import RunStore
from lens.storage import csv_text
from tests.lens.many_prompts.run_making import (
    N_EXPERTS,
    begin,
    finished,
    random_routing,
    write_events,
)

LENGTHS = [5, 9, 1, 12, 7]
LABELS = ["b", "a", "b", "a", "a"]


@pytest.fixture
def store(tmp_path) -> RunStore:
    return RunStore(tmp_path / "it's [a] *store*", keep_days=0)


@pytest.fixture
def routing():
    return random_routing(np.random.default_rng(0), LENGTHS)


def test_a_run_is_the_folder_of_traces_that_its_events_say(store, routing):
    tokens, experts = routing
    folder = run_traces(finished(store, tokens, experts, LABELS))
    np.testing.assert_array_equal(folder.tokens, np.concatenate(tokens))
    np.testing.assert_array_equal(folder.experts, np.concatenate(experts, axis=1))
    assert folder.labels == ("a", "b")
    assert folder.label_of.tolist() == [1, 0, 1, 0, 0]
    assert folder.n_tokens.tolist() == LENGTHS
    assert (folder.n_layers, folder.top_k, folder.n_experts) == (3, 2, N_EXPERTS)
    for i, own in enumerate(experts):
        for layer in range(3):
            expected = np.bincount(own[layer].ravel(), minlength=N_EXPERTS)
            np.testing.assert_array_equal(folder.counts[i, layer], expected)
    np.testing.assert_array_equal(folder.margins, np.repeat(np.arange(5.0), 3).reshape(5, 3))


def test_first_tokens_are_left_out_and_prompts_of_no_more_with_them(store, routing):
    tokens, experts = routing
    run = finished(store, tokens, experts, LABELS)
    folder = run_traces(run, skip=1)
    np.testing.assert_array_equal(folder.tokens, np.concatenate([one[1:] for one in tokens]))
    np.testing.assert_array_equal(
        folder.experts, np.concatenate([one[:, 1:] for one in experts], axis=1)
    )
    assert folder.names == ("prompt 0", "prompt 1", "prompt 3", "prompt 4")
    assert folder.label_of.tolist() == [1, 0, 0, 0]
    with pytest.raises(LensError, match="No prompt has more than 12 tokens"):
        run_traces(run, skip=12)


def test_events_that_are_missing_are_no_routing(store, routing):
    tokens, experts = routing
    writing = begin(store, LABELS)
    write_events(writing, tokens, experts)
    (writing.events / "routing-00001.parquet").unlink()
    with pytest.raises(LensError, match="not whole"):
        run_traces(writing.run)
    (writing.events / "routing-00000.parquet").unlink()
    with pytest.raises(LensError, match="no routing yet"):
        run_traces(writing.run)
    writing.cancel()


def test_labels_that_choose_their_own_experts_are_told_apart_and_others_are_not(store):
    rng = np.random.default_rng(1)
    labels = ["a", "b"] * 12
    tokens, experts = random_routing(rng, [20] * 24)
    by_chance = run_label_test(run_traces(finished(store, tokens, experts, labels)), draws=199)
    assert by_chance.test.p.min() > 0.02
    for own, label in zip(experts, labels, strict=True):
        own[1, :, 0], own[1, :, 1] = (0, 1) if label == "a" else (2, 3)
    planted = run_label_test(run_traces(finished(store, tokens, experts, labels)), draws=199)
    assert planted.test.p[1] == 1 / 200
    assert "over the 24 prompts, 199 times" in planted.test.method
    assert planted.test.value[1] == pytest.approx(np.log(2))
    assert np.isclose(planted.lift[0, 1, :2], 2).all()


def test_labels_of_one_prompt_are_not_compared(store, routing):
    run = finished(store, *routing, ["a", "a", "a", "a", "b"])
    with pytest.raises(LensError, match="two prompts each; found labels with fewer: b"):
        run_label_test(run_traces(run))
    run = finished(store, *routing, ["all"] * 5)
    with pytest.raises(LensError, match="found one: all. Label the prompts"):
        run_label_test(run_traces(run))


def test_a_question_reads_the_files_of_its_run_and_nothing_else(store, routing):
    run, other = (finished(store, *routing, LABELS) for _ in range(2))
    file = str(other.events / "tokens.parquet").replace("'", "''")
    with pytest.raises(Exception, match="disabled by configuration"):
        ask(run, f"SELECT * FROM read_parquet('{file}')")


def test_the_layers_of_a_run_are_those_of_all_its_prompts(store, routing):
    run = finished(store, *routing, LABELS)
    found = ask(run, "SELECT DISTINCT layer FROM read_parquet($routing) ORDER BY layer")
    assert layer_numbers(run).tolist() == found["layer"].tolist() == [0, 1, 2]


def test_what_is_asked_for_is_bound_and_never_a_statement(store, routing):
    run = finished(store, *routing, LABELS)
    nasty = "'; DROP TABLE x; --"
    found = ask(
        run, "SELECT $label AS label, count(*) AS n FROM read_parquet($prompts)", label=nasty
    )
    assert found["label"][0] == nasty
    assert found["n"][0] == 5


def test_questions_to_a_run_that_is_gone_say_so(store, routing):
    run = finished(store, *routing, LABELS)
    store.delete(run.id, run.owner)
    with pytest.raises(NoRunError, match="has been deleted"):
        run_traces(run)


def test_files_that_are_damaged_are_named_as_such(store, routing):
    run = finished(store, *routing, LABELS)
    file = run.events / "routing-00000.parquet"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(LensError, match="routing-00000.parquet. was damaged"):
        run_traces(run)


def test_an_export_holds_the_files_and_tables_and_neither_id_nor_owner(store, routing):
    run = finished(store, *routing, LABELS)
    with zipfile.ZipFile(io.BytesIO(run_zip(run))) as archive:
        names = set(archive.namelist())
        assert {"routing-00000.parquet", "routing-00001.parquet", "tokens.parquet"} <= names
        assert archive.read("prompts.parquet") == (run.events / "prompts.parquet").read_bytes()
        everything = b"".join(archive.read(name) for name in names)
        prompts = list(csv.DictReader(io.StringIO(archive.read("prompts.csv").decode())))
        loads = csv_text.read_csv(archive.read("load_by_prompt.csv").decode())
        rows = list(csv.DictReader(io.StringIO(archive.read("routing.csv").decode())))
    assert run.id.encode() not in everything and run.owner.encode() not in everything
    assert [row["label"] for row in prompts] == LABELS
    assert sum(int(row[-1]) for row in loads[1:]) == 34 * 3 * 2
    assert len(rows) == 34 * 3 * 2
    experts = [int(row["expert"]) for row in rows if row["prompt"] == "1" and row["layer"] == "2"]
    assert experts == routing[1][1][2].ravel().tolist()


def test_an_export_of_a_run_that_is_gone_says_so_and_a_large_one_leaves_out_the_long_table(
    store, routing, monkeypatch
):
    run = finished(store, *routing, LABELS)
    monkeypatch.setattr(run_export, "MOST_CSV_ROWS", 10)
    with zipfile.ZipFile(io.BytesIO(run_zip(run))) as archive:
        assert "routing.csv" not in archive.namelist()
        assert "routing.csv" not in archive.read("README.txt").decode()
    monkeypatch.setattr(run_export, "MOST_BYTES", 10)
    with pytest.raises(LensError, match="at most 10 are packed"):
        run_zip(run)
    store.delete(run.id, run.owner)
    with pytest.raises(NoRunError):
        run_zip(run)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_texts_that_a_spreadsheet_would_run_are_kept_from_it(text):
    assert run_export.safe(text) == f"'{text}"
    assert run_export.safe(f"a{text}") == f"a{text}"
