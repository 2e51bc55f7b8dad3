"""Statistics of texts whose neighbours are alike: false alarms at 5 % and what is planted.

The rates in comments are of 100 to 200 texts; the limits leave room for chance in fewer.
"""

from __future__ import annotations

import numpy as np
import pytest

from lens.stats.neighbour_correlation import correlation_time
from lens.stats.turned_stretches import stretches, turned
from lens.traces import load_null
from lens.traces.contrast import equal_tokens, strongest_contrast
from lens.traces.coselection import coselection, pair_test, pair_times
from lens.traces.information import token_information
from lens.traces.margins import margin_shape
from tests.lens.traces.choices import running_text

UPPER = np.triu_indices(8, 1)


def rate(p_of, kind, texts=60, level=0.05, **options) -> float:
    """Share of p-values of texts of a kind that are at most the level."""
    p = [p_of(running_text(kind, seed, **options), seed) for seed in range(texts)]
    return float(np.mean(np.concatenate([np.ravel(one) for one in p]) <= level))


def ids_alike(trace, seed):
    return equal_tokens(trace, draws=99, seed=seed).p


def ids_tell(trace, seed):
    return token_information(trace.tokens, trace.experts, 8, draws=99, seed=seed).test.p


# --- ids ----------------------------------------------------------------------------


@pytest.mark.parametrize("p_of", [ids_alike, ids_tell])
@pytest.mark.parametrize(
    ("kind", "most"),  # shuffled over the text: 2–3, 32–56, 79–90, 27–55 %
    [("independent", 0.1), ("neighbours", 0.2), ("topic", 0.36), ("drift", 0.13)],
)
def test_ids_that_go_with_the_place_alone_are_seldom_called(p_of, kind, most):
    assert rate(p_of, kind) <= most


@pytest.mark.parametrize("p_of", [ids_alike, ids_tell])
def test_ids_that_have_experts_are_found(p_of):
    for kind, least in (("independent", 0.9), ("topic", 0.9), ("drift", 0.6)):
        assert rate(p_of, kind, texts=15, by_id=0.4) >= least


def test_stretches_are_equal_parts_of_each_text_and_are_turned_by_themselves():
    texts = np.repeat([0, 1, 2], [100, 20, 3])
    part = stretches(123, texts)
    assert np.bincount(part).tolist() == [17, 17, 16, 17, 17, 16, 10, 10, 3]
    order = turned(np.random.default_rng(0), part)
    np.testing.assert_array_equal(part[order], part)
    assert sorted(order) == list(range(123))
    for one in range(9):
        own = order[part == one]
        assert ((np.diff(own) == 1) | (np.diff(own) == 1 - len(own))).all()


# --- loads --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "most"),  # as if independent: 6, 94, 100 %; a drift is called in 86 % of texts
    [("independent", 0.12), ("neighbours", 0.18), ("topic", 0.32)],
)
def test_even_use_of_texts_whose_neighbours_are_alike_is_seldom_called_uneven(kind, most):
    assert rate(lambda trace, seed: load_null.even_use(trace, draws=99, seed=seed).p, kind) <= most
    missed = [
        (low > 1 / 8) | (high < 1 / 8)
        for low, high in (load_null.share_interval(running_text(kind, s)) for s in range(60))
    ]
    assert np.any(missed, axis=2).mean() <= most


def test_uneven_use_is_found_in_texts_whose_neighbours_are_alike():
    def p_of(trace, seed):
        trace.experts = np.where(trace.experts == 7, 0, trace.experts)
        return load_null.even_use(trace, draws=99).p

    assert rate(p_of, "independent", 20) >= 0.95
    assert rate(p_of, "neighbours", 20) >= 0.6


def test_the_correlation_time_is_that_of_the_process():
    rng = np.random.default_rng(0)
    walk = rng.standard_normal((8, 1024))
    for t in range(1, 1024):
        walk[:, t] += 0.8 * walk[:, t - 1]
    topic = (
        rng.standard_normal((8, 1024))
        + 0.5 * np.repeat(rng.standard_normal((8, 22)), 50, 1)[:, :1024]
    )
    assert correlation_time(rng.standard_normal((8, 1024))) == pytest.approx(1, abs=0.15)
    assert correlation_time(walk) == pytest.approx(9, rel=0.4)  # 1.8 / 0.2
    assert correlation_time(topic) == pytest.approx(10.8, rel=0.5)  # 1 + 49 · 0.2
    assert correlation_time(np.ones((3, 50))) == 1


# --- pairs, margins, kinds ----------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "most"),  # as if independent: 5, 18, 11, 7 %
    [("independent", 0.065), ("neighbours", 0.1), ("topic", 0.125), ("drift", 0.085)],
)
def test_pairs_that_loads_explain_are_seldom_called(kind, most):
    def p_of(trace, seed):
        return pair_test(coselection(trace), pair_times(trace)).p[:, *UPPER]

    assert rate(p_of, kind, 40) <= most


def test_a_planted_pair_is_found_where_neighbours_are_alike():
    trace = running_text("neighbours", 0, n_tokens=600)
    trace.experts[1, ::6] = [2, 6]
    found = pair_test(coselection(trace), pair_times(trace))
    assert found.q[1, 2, 6] <= 0.01 and found.method.endswith("count as one (mean over layers)")


def test_margins_of_normal_logits_are_not_told_from_them_however_alike_neighbours_are():
    def p_of(trace, seed):
        logits = trace.router_logits
        for t in range(1, logits.shape[1]):  # 0.95 of the neighbour: 12 % if independent, now 3
            logits[:, t] = 0.95 * logits[:, t - 1] + 0.31 * logits[:, t]
        trace.experts = np.argsort(-logits, axis=2)[..., :2]
        return margin_shape(trace, draws=49, seed=seed).test.p

    assert rate(p_of, "independent", 50, n_layers=1) <= 0.1


def test_a_kind_that_is_strewn_over_a_text_is_not_told_apart_by_its_place():
    def p_of(trace, seed):
        kind = np.random.default_rng(seed).random(120) < 0.3
        return strongest_contrast(trace, kind).p

    for kind in ("neighbours", "topic", "drift"):  # 5, 4, 4 %
        assert rate(p_of, kind, n_tokens=120) <= 0.12
