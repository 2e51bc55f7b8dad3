"""What a run shows: counted by hand, planted, and against the chance that is claimed."""

from __future__ import annotations

import csv
import io
import zipfile

import numpy as np
import pytest
from run_making import N_EXPERTS, begin, finished, random_routing, write_events
from scipy.stats import hypergeom

from lens import run_export
from lens.errors import LensError
from lens.run_events import ask
from lens.run_export import run_zip
from lens.run_statistics import (
    at_least,
    prompts_of_words,
    run_label_test,
    run_traces,
    strongest,
    word_lift,
)
from lens.run_store import NoRunError, RunStore

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
    assert folder.pairs.shape == (2, 3, N_EXPERTS, N_EXPERTS)
    assert folder.pairs[:, 0].trace(axis1=1, axis2=2).tolist() == [2 * 28, 2 * 6]


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
    assert planted.test.value[1] == pytest.approx(np.log(2))
    assert np.isclose(planted.lift[0, 1, :2], 2).all()


def test_labels_of_one_prompt_are_not_compared(store, routing):
    run = finished(store, *routing, ["a", "a", "a", "a", "b"])
    with pytest.raises(LensError, match="two prompts each; found labels with fewer: b"):
        run_label_test(run_traces(run))
    run = finished(store, *routing, ["all"] * 5)
    with pytest.raises(LensError, match="found one: all. Label the prompts"):
        run_label_test(run_traces(run))


def test_the_tail_of_words_is_scipys_hypergeometric_one():
    rng = np.random.default_rng(2)
    size = rng.integers(0, 61, (2, 4))
    size[0, 0], size[0, 1] = 0, 60
    occurrences = np.array([40, 7, 7, 1])
    count = np.minimum(rng.integers(0, 30, (2, 4, 4)), np.minimum(size[..., None], occurrences))
    count = np.maximum(count, occurrences - (60 - size[..., None]))
    expected = hypergeom.sf(count - 1, 60, size[..., None], occurrences)
    np.testing.assert_allclose(at_least(count, size, occurrences, 60), expected, atol=1e-12)


def test_words_are_counted_and_a_planted_one_is_found(store):
    tokens, experts = random_routing(np.random.default_rng(3), [60] * 10)
    for own, ids in zip(experts, tokens, strict=True):
        own[2, ids == 4] = [5, 6]
    run = finished(store, tokens, experts, ["a", "b"] * 5)
    words = word_lift(run)
    everything, ids = np.concatenate(experts, axis=1), np.concatenate(tokens)
    v = words.tokens.tolist().index(4)
    assert words.pieces[v] == "w4"
    assert words.occurrences[v] == (ids == 4).sum() == words.count[2, 5, v]
    for layer, expert, column in [(0, 3, 7), (1, 0, 0), (2, 6, v)]:
        chose = (everything[layer] == expert).any(axis=1)
        assert words.size[layer, expert] == chose.sum()
        took = chose & (ids == words.tokens[column])
        assert words.count[layer, expert, column] == took.sum()
        lift = (took.sum() / chose.sum()) / (words.occurrences[column] / len(ids))
        assert words.lift[layer, expert, column] == pytest.approx(lift)
    assert words.q[2, 5, v] < 1e-6
    assert words.q[2, 5].argmin() == v
    assert words.found[2, 5] >= 1 > words.found[1].mean()
    assert (np.diff(words.occurrences) <= 0).all()
    assert prompts_of_words(run, 2, 5)[4] == sum((own == 4).any() for own in tokens)


def test_p_values_of_words_by_chance_are_not_too_small(store):
    shares = []
    for seed in range(4):
        run = finished(store, *random_routing(np.random.default_rng(seed), [50] * 6), ["a"] * 6)
        shares.append((word_lift(run).p <= 0.05).mean())
    assert np.mean(shares) < 0.05


def test_words_that_are_rare_are_not_tested(store, routing):
    run = finished(store, *routing, LABELS)
    ids, n = np.unique(np.concatenate(routing[0]), return_counts=True)
    assert sorted(word_lift(run, least=3).tokens) == sorted(ids[n >= 3])
    assert len(word_lift(run, least=1, most=2).tokens) == 2
    with pytest.raises(LensError, match="No token occurs 99 times"):
        word_lift(run, least=99)


def test_the_strongest_tokens_come_with_what_stands_around_them(store, routing):
    tokens, experts = routing
    rng = np.random.default_rng(4)
    gates = [rng.random(own.shape) for own in experts]
    run = finished(store, tokens, experts, LABELS, gates)
    found = strongest(run, 1, 3, most=5, context=2)
    every = [
        (gates[i][1, t, k], i, t, k)
        for i, own in enumerate(experts)
        for t, k in np.argwhere(own[1] == 3)
    ]
    best = sorted(every, reverse=True)
    taken: dict[int, int] = {}
    expected = []
    for gate, i, t, k in best:
        token = int(tokens[i][t])
        taken[token] = taken.get(token, 0) + 1
        if taken[token] <= 3:
            expected.append((i, t, k, pytest.approx(gate, rel=1e-6)))
    assert [(o.prompt, o.position, o.slot, o.gate) for o in found] == expected[:5]
    for one in found:
        around = [f"w{token}" for token in tokens[one.prompt]]
        assert one.piece == around[one.position]
        assert list(one.before) == around[max(0, one.position - 2) : one.position]
        assert list(one.after) == around[one.position + 1 : one.position + 3]
        assert one.label == LABELS[one.prompt]
    token = found[0].token
    own = strongest(run, 1, 3, token=token)
    assert {one.token for one in own} == {token}
    assert len(own) == sum(tokens[i][t] == token for _, i, t, _ in every)


def test_a_question_reads_the_files_of_its_run_and_nothing_else(store, routing, tmp_path):
    run = finished(store, *routing, LABELS)
    outside = tmp_path / "outside.csv"
    outside.write_text("a\n1\n")
    other = finished(store, *routing, LABELS)
    for statement in [
        f"SELECT * FROM read_csv('{outside}') WHERE $routing IS NOT NULL",
        f"COPY (SELECT 1) TO '{tmp_path / 'written.csv'}'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
    ]:
        with pytest.raises(Exception, match="disabled by configuration|locked"):
            ask(run, statement)
    file = str(other.events / "tokens.parquet").replace("'", "''")
    with pytest.raises(Exception, match="disabled by configuration"):
        ask(run, f"SELECT * FROM read_parquet('{file}')")
    assert not (tmp_path / "written.csv").exists()


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
    with pytest.raises(LensError, match="cannot be read"):
        run_traces(run)


def test_an_export_holds_the_files_and_tables_and_neither_id_nor_owner(store, routing):
    run = finished(store, *routing, LABELS)
    with zipfile.ZipFile(io.BytesIO(run_zip(run))) as archive:
        names = set(archive.namelist())
        assert {"routing-00000.parquet", "routing-00001.parquet", "tokens.parquet"} <= names
        assert archive.read("prompts.parquet") == (run.events / "prompts.parquet").read_bytes()
        everything = b"".join(archive.read(name) for name in names)
        prompts = list(csv.DictReader(io.StringIO(archive.read("prompts.csv").decode())))
        loads = list(csv.DictReader(io.StringIO(archive.read("load_by_prompt.csv").decode())))
        rows = list(csv.DictReader(io.StringIO(archive.read("routing.csv").decode())))
    assert run.id.encode() not in everything and run.owner.encode() not in everything
    assert [row["label"] for row in prompts] == LABELS
    assert sum(int(row["assignments (tokens x choices)"]) for row in loads) == 34 * 3 * 2
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
