"""A pass against plain counts of the same activations; shards, resumption, and what is written."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from grok.dictionaries import index as command
from grok.dictionaries.indexing import run as runs
from grok.dictionaries.indexing.contexts import bin_of
from grok.dictionaries.indexing.run import Indexing, index
from grok.dictionaries.kinds.inference import apply
from grok.errors import GrokError
from grok.interventions.sites import HookPoint
from tests.feature_database import FEATURES, small_pass

SITES = ("router.input", "router.experts", "router.logits", "resid_mid")


@cache
def plainly() -> dict[str, np.ndarray]:
    """Strengths [R, B] and choices of all tokens that count, one window at a time."""
    one = small_pass(None)
    model, dictionary, text = one.model, one.dictionary, one.text
    points = [HookPoint(layer, site) for layer in range(3) for site in SITES]
    found: dict[str, list] = {"f": [], "window": [], "position": [], "experts": [], "scale": []}
    for window, tokens in enumerate(text.tokens):
        result = model.run_one(tokens, wanted=points)
        n = len(tokens)
        kept = {p: np.asarray(result.kept[p])[0, :n] for p in points}
        x = np.stack([kept[HookPoint(layer, "router.input")] for layer in range(3)])
        features = jax.device_get(apply(dictionary, x).features)
        found["f"].append(np.concatenate([one.T for one in features])[:, 1:])
        found["window"].append(np.full(n - 1, window))
        found["position"].append(np.arange(1, n))
        chosen = [kept[HookPoint(layer, "router.experts")] for layer in range(3)]
        found["experts"].append(np.stack(chosen)[:, 1:])
        streams = np.stack([kept[HookPoint(layer, "resid_mid")] for layer in range(3)])[:, 1:]
        found["scale"].append(1 / np.sqrt(np.square(streams).mean(-1) + 1e-5))
    axis = {"f": 1, "experts": 1, "scale": 1}
    return {k: np.concatenate(v, axis=axis.get(k, 0)) for k, v in found.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Indexing:
    one = small_pass(tmp_path_factory.mktemp("features") / "db")
    index(one)
    return one


def table(one: Indexing, name: str) -> dict:
    return pq.read_table(one.output / f"{name}.parquet").to_pydict()


def test_sums_are_those_of_plain_counts(whole):
    known = plainly()
    f, one = known["f"], whole.merged(1)
    on = f > 1e-6
    sums = one.sums
    assert on.any(1).sum() > 30
    np.testing.assert_array_equal(sums["n"], on.sum(1))
    np.testing.assert_allclose(sums["total"], f.sum(1), rtol=1e-4)
    np.testing.assert_allclose(sums["square"], np.square(f).sum(1), rtol=1e-4)
    np.testing.assert_allclose(one.largest, f.max(1), rtol=1e-4)
    assert sums["bins"].sum(1).tolist() == sums["n"].tolist()
    label = whole.text.labels[known["window"]]
    for i in range(2):
        np.testing.assert_array_equal(sums["by_label"][:, i], on[:, label == i].sum(1))
    n_experts = whole.model.config.n_experts
    for layer in range(3):
        for expert in range(n_experts):
            went = (known["experts"][layer] == expert).any(1)
            cell = sums["with_expert"][:, layer * n_experts + expert]
            np.testing.assert_array_equal(cell, (on & went).sum(1))
        np.testing.assert_allclose(
            sums["scaled"][:, layer], (f * known["scale"][layer]).sum(1), rtol=1e-3
        )


def test_the_strongest_contexts_are_the_strongest_one_a_window_and_held_out(whole):
    known, examples = plainly(), table(whole, "examples")
    f, held = known["f"], whole.text.held_out[known["window"]]
    for row in range(FEATURES, 2 * FEATURES):
        best = {}
        for at in np.flatnonzero(held & (f[row] > 0)):
            window = known["window"][at]
            if f[row, at] > best.get(window, (0, 0))[0]:
                best[window] = (f[row, at], known["position"][at])
        expected = sorted(((v, w, p) for w, (v, p) in best.items()), reverse=True)[:3]
        own = [
            (examples["value"][i], examples["window"][i], examples["position"][i])
            for i, kind in enumerate(examples["kind"])
            if kind == 0 and (examples["group"][i], examples["feature"][i]) == (1, row - FEATURES)
        ]
        assert [x[1:] for x in own] == [x[1:] for x in expected]
        np.testing.assert_allclose([x[0] for x in own], [x[0] for x in expected], rtol=1e-3)


def test_the_token_under_the_mark_is_the_one_that_fired(whole):
    """Every context: its values are the strengths at its tokens, the marked one not 0."""
    known = plainly()
    places = {(w, p): i for i, (w, p) in
              enumerate(zip(known["window"], known["position"], strict=True))}  # fmt: skip
    for name in ("examples", "judged"):
        own, active = table(whole, name), 0
        for i, values in enumerate(own["values"]):
            row = own["group"][i] * FEATURES + own["feature"][i]
            mark = own["position"][i] - own["start"][i]
            assert 0 <= mark < len(values)
            for k, value in enumerate(values):
                at = places.get((own["window"][i], own["start"][i] + k))
                # the first position is shown as the dictionary sees it, though it does not count
                if at is not None:
                    assert value == pytest.approx(known["f"][row, at], rel=2e-3, abs=1e-4)
            assert own["value"][i] == pytest.approx(values[mark], rel=2e-3, abs=1e-4)
            active += values[mark] > 0
            if own["kind"][i] <= 5:
                assert values[mark] > 0
        assert active > 50
    windows = table(whole, "windows")
    for window, tokens in zip(windows["window"], windows["tokens"], strict=True):
        np.testing.assert_array_equal(tokens, whole.text.tokens[window])


def test_quarters_hold_contexts_of_their_strength(whole):
    examples, one = table(whole, "examples"), whole.merged(1)
    seen = 0
    for i, kind in enumerate(examples["kind"]):
        if 1 <= kind <= 4:
            row = examples["group"][i] * FEATURES + examples["feature"][i]
            bins = one.sums["bins"][row]
            own = int(bin_of(np.array([examples["value"][i]], np.float32))[0])
            middle = (bins[:own].sum() + bins[own] / 2) / bins.sum()
            assert (kind - 1) / 4 <= middle <= kind / 4 + 1e-9
            seen += 1
    assert seen > 50


def test_shards_together_are_the_whole_pass(whole, tmp_path):
    one = small_pass(tmp_path / "db")
    for shard in (2, 0, 1):
        one.read_shard(shard, 3)
    one.finish(one.merged(3))
    for name in ("features", "examples", "judged", "routes", "windows"):
        a, b = (pq.read_table(o.output / f"{name}.parquet") for o in (whole, one))
        assert a.schema == b.schema and a.num_rows == b.num_rows
        for column in a.column_names:
            mine, other = a.column(column).to_pylist(), b.column(column).to_pylist()
            if any(isinstance(value, float) for value in mine):
                mine, other = np.array(mine, float), np.array(other, float)  # null: not a number
                np.testing.assert_allclose(mine, other, rtol=2e-3, atol=1e-3, err_msg=column)
            elif column not in ("with_pmi", "with_jaccard", "word_shares", "label_rates"):
                assert mine == other, column


def test_ended_and_taken_up_again_is_the_same(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "SAVE_EVERY", 3)

    class Ended(Exception):
        pass

    def ends_at(stage, count):
        seen = []

        def told(now, done, of):
            seen.append(now)
            if seen.count(stage) == count:
                raise Ended

        return told

    one = small_pass(tmp_path / "db")
    for stage, count in (("counting", 5), ("contexts", 4)):
        with pytest.raises(Ended):
            index(replace(one, progress=ends_at(stage, count)), resume=True)
    with pytest.raises(GrokError, match="--resume"):
        index(one)
    index(one, resume=True)
    for file in sorted(whole.output.glob("*.parquet")):
        assert file.read_bytes() == (one.output / file.name).read_bytes(), file.name
    with pytest.raises(GrokError, match="holds a database"):
        index(one)


def test_contexts_are_the_same_from_the_sample_and_read_again(tmp_path):
    found = {}
    for sample in (0, 10_000):
        one = small_pass(tmp_path / str(sample), sample=32 + sample, facts={"skipped": 0})
        index(one)
        found[sample] = table(one, "examples")
    for name in ("window", "position", "feature"):
        assert found[0][name] == found[10_000][name]
    for a, b in zip(found[0]["values"], found[10_000]["values"], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_a_pass_of_another_text_or_a_missing_shard_is_refused(tmp_path):
    one = small_pass(tmp_path / "db")
    one.read_shard(0, 2)
    with pytest.raises(GrokError, match="shard 1 of 2 is not finished"):
        one.merged(2)
    other = replace(one, sha256="b" * 64)
    with pytest.raises(GrokError, match="another pass"):
        other.read_shard(0, 2)
    (one.work / "state-0-of-2.npz").write_bytes(b"PK")
    with pytest.raises(GrokError, match="damaged"):
        one.read_shard(0, 2)


def test_settings_of_the_command_are_checked():
    assert command.plan_values(["tokens=2_000", "map=pca", "held_out_only=false"]) == {
        "tokens": 2000, "map": "pca", "held_out_only": False,
    }  # fmt: skip
    for wrong in ("tokens=x", "nonsense=1", "held_out_only=maybe"):
        with pytest.raises(GrokError, match="--set"):
            command.plan_values([wrong])
