"""What edges say is what the model does where all else is held, and nearly so where it is not."""

from __future__ import annotations

import numpy as np
import pytest

from grok.dictionaries.attribution import (
    Change,
    Node,
    Target,
    check_effects,
    check_nodes,
    read_features,
    run_in_mode,
    steer,
)
from grok.dictionaries.attribution.modes import run_additions
from grok.dictionaries.attribution.rows import Rows
from grok.errors import GrokError
from grok.interventions.sites import HookPoint
from lens.features.graphs import fit
from tests.grok.dictionaries.attribution.random_dictionaries import random_dictionary

IDS = np.random.default_rng(2).integers(1, 300, 14).astype(np.int32)


@pytest.fixture(scope="module")
def read(tiny3):
    return read_features(tiny3, random_dictionary(tiny3, "clt"), IDS)


def test_constrained_effects_are_the_edges_exactly(tiny3, read):
    check = check_effects(tiny3, read, Target("router", -1, 2, 5, layer=2), n=6)
    assert len(check.predicted) == 6 and (np.abs(check.predicted[:1]) > 0.01).all()
    np.testing.assert_allclose(check.measured[0], check.predicted, rtol=1e-4, atol=1e-6)
    for m in (1, 2):  # the model answers: near, but not the same
        assert fit(check.predicted, check.measured[m]).n == 6
        assert np.abs(check.measured[m] - check.predicted).max() > 1e-5


@pytest.mark.parametrize("target", ["router", "feature"])
def test_nodes_that_are_taken_out_change_a_target_by_their_edges(tiny3, read, target):
    token, i = (int(one[-1]) for one in np.nonzero(read.features[2]))
    asked = {
        "router": Target("router", -1, 2, 5, layer=2),
        "feature": Target("feature", token, i, group=2),
    }[target]
    at, own = (int(one[-1]) for one in np.nonzero(read.features[0][: token + 1]))
    nodes = [
        Node("feature", "layers[0].router.input", at, 0, own),
        Node("error", "layers[1].moe.normed", at),
        Node("embedding", "layers[0].resid_pre", at),
        Node("bias", "layers[1].moe.normed", at),
    ]
    check = check_nodes(tiny3, read, nodes, asked, random=2)
    assert abs(check.predicted) > 1e-3
    assert check.measured[0] == pytest.approx(check.predicted, rel=1e-3)
    assert (np.abs(check.measured[1:] - check.predicted) > 1e-5).all()
    assert check.random.shape == (3, 2) and (np.abs(check.random - check.predicted) > 1e-5).all()


def test_what_nothing_writes_is_not_taken_out(tiny3, read):
    for node in (Node("own bias", "", 1), Node("attention bias", "layers[0].attn.normed", 1)):
        with pytest.raises(GrokError, match="can't be taken out"):
            check_nodes(tiny3, read, [node], Target("router", -1, 2, layer=2))


def test_a_dose_of_a_feature_moves_a_target_by_its_share_of_the_edge(tiny3, read):
    rows = Rows(tiny3, read)
    row = rows.of([rows.covector(Target("router", 9, 1, layer=2))])[0]
    c = int(np.argmax(np.where(rows.columns.kinds == "feature", np.abs(row), 0)))
    token, f = int(rows.columns.tokens[c]), float(rows.columns.values[c])
    change = Change(int(rows.columns.features[c]), "add", 0.37, group=int(rows.columns.groups[c]))
    z = run_in_mode(tiny3, read, change, positions=[token]).logits[2, 9]
    plain = read.readouts[2].own(read.logits[2, 9])
    assert z[1] - plain[1] == pytest.approx(0.37 / f * row[c], rel=1e-4, abs=1e-6)


def test_nothing_added_changes_nothing_and_free_is_the_run_itself(tiny3, read):
    nothing = {HookPoint(0, "moe.normed"): np.zeros((IDS.size, 64))}
    plain = read.readouts[0].own(read.logits)
    for mode in ("constrained", "frozen attention", "free"):
        run = run_additions(tiny3, read, nothing, mode)
        np.testing.assert_allclose(run.logits, plain, atol=1e-4)
        assert not run.moved.any()
    feature = int(np.argmax(read.features[0].sum(0)))
    change = Change(feature, "scale", 4.0)
    # One group alone, so nothing is read from a changed stream in either.
    free = run_in_mode(tiny3, read, change, mode="free")
    steered = tiny3.run_one(IDS, edits=steer(read.dictionary, change))
    expected = read.readouts[0].own(steered.router_logits[:, 0, : IDS.size])
    np.testing.assert_allclose(free.logits, expected, atol=2e-4)
    held = run_in_mode(tiny3, read, change, mode="frozen attention")
    constrained = run_in_mode(tiny3, read, change)
    assert np.abs(held.logits - free.logits).max() > 1e-3
    assert np.abs(held.logits - constrained.logits).max() > 1e-3


def test_unknown_modes_and_targets_are_refused(tiny3, read):
    with pytest.raises(GrokError, match="mode is 'open'; expected one of constrained, frozen"):
        run_in_mode(tiny3, read, Change(0), mode="open")
    with pytest.raises(GrokError, match="effects are measured on router targets"):
        check_effects(tiny3, read, Target("token", 0, 1))
    with pytest.raises(GrokError, match=r"layers\[0\].moe.output: additions are made to"):
        run_additions(tiny3, read, {HookPoint(0, "moe.output"): np.zeros((14, 64))}, "free")


def test_a_line_tells_prediction_from_noise():
    p = np.array([1.0, -2, 3])
    assert fit(p, 2 * p) == (2, 1, 1, 3)
    off = fit(p, np.array([2.0, 1, 0]))
    assert off.slope == 0 and off.r2 == 0 and off.signs == pytest.approx(1 / 3)
    assert np.isnan(fit(p * 0, p).slope)
