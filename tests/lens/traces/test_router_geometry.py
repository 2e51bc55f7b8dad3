"""The smallest change that flips a choice, and the tokens that a router sees alike."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from lens.errors import LensError
from lens.routers.expert_mixing import expert_mixings
from lens.routers.router_set import RouterSet
from lens.traces import router_geometry as nearby
from lens.traces.trace import Trace

L, T, D, E, K = 2, 30, 16, 6, 2


def routers_of(seed: int = 0, **changes) -> RouterSet:
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((L, D, E)).astype(np.float32)
    scales = (1 + 0.2 * rng.standard_normal((L, D))).astype(np.float32)
    return RouterSet(**{"routers": weights, "norm_scales": scales, "top_k": K, **changes})


def normed(h: np.ndarray) -> np.ndarray:
    return h * np.sqrt(D) / np.linalg.norm(h, axis=-1, keepdims=True)


def logits_of(routers: RouterSet, h: np.ndarray) -> np.ndarray:
    """Router logits [L, T, E] of residuals [L, T, D], as the model has them."""
    x = normed(h) * routers.norm_scales[:, None]
    return np.einsum("ltd,lde->lte", x, routers.routers.astype(np.float64))


def chosen_of(logits: np.ndarray) -> np.ndarray:
    return np.argsort(-logits, axis=-1)[..., :K]


def trace_of(logits: np.ndarray, routers: RouterSet | None = None, **changes) -> Trace:
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probs = shifted / shifted.sum(axis=-1, keepdims=True)
    experts = chosen_of(logits)
    n = logits.shape[1]
    made = {
        "tokens": np.arange(1, n + 1, dtype=np.int32),
        "pieces": np.array([f"w{i}" for i in range(n)]),
        "prompt_length": n,
        "router_logits": logits.astype(np.float32),
        "router_probs": probs.astype(np.float32),
        "experts": experts.astype(np.int32),
        "gates": np.take_along_axis(probs, experts, -1).astype(np.float32),
        "candidates": np.zeros((n, 0), np.int32),
        "candidate_probs": np.zeros((n, 0), np.float32),
        "model_sha256": routers.sha256 if routers else "0" * 64,
    }
    return Trace(**{**made, **changes})


@pytest.fixture(scope="module")
def routers() -> RouterSet:
    return routers_of()


@pytest.fixture(scope="module")
def residuals() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((L, T, D)) * 3


@pytest.fixture(scope="module")
def trace(routers: RouterSet, residuals: np.ndarray) -> Trace:
    return trace_of(logits_of(routers, residuals), routers)


# --- what would have flipped a choice -------------------------------------------------


def pushed_choice(routers, h, layer, token, direction, share) -> set[int]:
    """The experts after a push of the residual, before the norm, by a share of its length."""
    h = h.copy()
    unit = direction / np.linalg.norm(direction)
    h[layer, token] += share * np.linalg.norm(h[layer, token]) * unit
    return set(chosen_of(logits_of(routers, h))[layer, token].tolist())


def test_a_push_just_longer_than_the_smallest_flips_the_choice_and_a_shorter_one_does_not(
    trace, routers, residuals
):
    for layer in range(L):
        found = nearby.flips(trace, routers, layer)
        w = routers.routers[layer] * routers.norm_scales[layer][:, None]
        for token in range(T):
            before = set(trace.experts[layer, token].tolist())
            a, b = found.leaves[token], found.enters[token]
            way = w[:, b] - w[:, a]
            share = found.push[token]
            after = pushed_choice(routers, residuals, layer, token, way, share * 1.001 + 1e-6)
            assert after == (before - {a}) | {b}
            kept = pushed_choice(routers, residuals, layer, token, way, share * 0.999 - 1e-6)
            assert kept == before


def test_no_direction_flips_a_choice_with_less_than_the_smallest_push(trace, routers, residuals):
    found = nearby.flips(trace, routers, 0)
    rng = np.random.default_rng(2)
    for token in range(0, T, 5):
        before = set(trace.experts[0, token].tolist())
        for way in rng.standard_normal((200, D)):
            after = pushed_choice(routers, residuals, 0, token, way, found.push[token] * 0.999)
            assert after == before
        drawn = nearby.random_pushes(trace, routers, 0, token, draws=500)
        assert drawn.min() >= found.push[token]


def test_random_pushes_are_as_long_as_those_of_directions_drawn_whole(trace, routers, residuals):
    token = 3
    before = set(trace.experts[1, token].tolist())
    shares = np.geomspace(0.1, 3, 6)
    flipped = np.zeros(len(shares))
    directions = np.random.default_rng(7).standard_normal((600, D))
    for way in directions:
        for i, share in enumerate(shares):
            flipped[i] += pushed_choice(routers, residuals, 1, token, way, share) != before
    drawn = nearby.random_pushes(trace, routers, 1, token, draws=4000)
    # Far out a direction may pass a second border, and the choice be the old one again.
    reached = (drawn[:, None] <= shares).mean(axis=0)
    np.testing.assert_allclose(flipped[:4] / len(directions), reached[:4], atol=0.06)
    assert reached[-1] > 0.3


def test_pushes_between_mixed_experts_flip_the_choice_where_they_say(trace, routers, residuals):
    token, layer, draws = 3, 1, 60
    before = set(trace.experts[layer, token].tolist())
    columns = nearby._columns(routers, layer) @ expert_mixings(1, E, draws, 0).of(0)
    drawn = nearby.mixed_pushes(trace, routers, layer, token, draws=draws)
    for way, push in zip(columns[:, :, 0] - columns[:, :, 1], drawn, strict=True):
        if np.isfinite(push):
            options = (routers, residuals, layer, token, way)
            assert pushed_choice(*options, push * 0.999 - 1e-6) == before
            assert pushed_choice(*options, push * 1.001 + 1e-6) != before
    assert np.isfinite(drawn).sum() >= 20
    assert drawn.min() >= nearby.flips(trace, routers, layer).push[token]


@pytest.mark.parametrize("d_model", [3, E, 40])
def test_random_slopes_have_the_covariance_of_uniform_directions(d_model):
    w = np.random.default_rng(0).standard_normal((d_model, E))
    slopes = nearby._random_slopes(w, 40_000, np.random.default_rng(1))
    np.testing.assert_allclose(slopes.T @ slopes / len(slopes), w.T @ w / d_model, atol=0.05)
    assert (np.abs(slopes) <= np.linalg.norm(w, axis=0) + 1e-9).all()


def test_the_smallest_push_is_not_always_that_of_the_next_in_line(trace, routers):
    found = nearby.flips(trace, routers, 0)
    w = routers.columns()[0].astype(np.float64)
    a, b = found.last_chosen, found.next_in_line
    in_line = found.margin / np.linalg.norm(w[:, a] - w[:, b], axis=0) / found.norm
    assert (found.push <= in_line + 1e-6).all()
    other = (found.leaves != a) | (found.enters != b)
    assert other.any() and not other.all()
    assert (found.push[other] < in_line[other]).all()


def test_pushes_do_not_change_with_a_vector_shared_by_all_columns_or_with_expert_order(
    trace, routers
):
    order = np.random.default_rng(4).permutation(E)
    shared = np.random.default_rng(5).standard_normal((L, D, 1)).astype(np.float32)
    changed = dataclasses.replace(routers, routers=routers.routers[:, :, order] + shared)
    place = np.argsort(order)
    moved = dataclasses.replace(
        trace,
        router_logits=trace.router_logits[..., order],
        router_probs=trace.router_probs[..., order],
        experts=place[trace.experts].astype(np.int32),
        model_sha256=changed.sha256,
    )
    for layer in range(L):
        one, other = nearby.flips(trace, routers, layer), nearby.flips(moved, changed, layer)
        np.testing.assert_allclose(one.push, other.push, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(place[one.enters], other.enters)


def test_closer_counts_the_other_tokens_with_a_smaller_push(trace, routers):
    found = nearby.flips(trace, routers, 0)
    order = np.argsort(found.push)
    assert found.closer(int(order[0])) == 0
    assert found.closer(int(order[-1])) == 1
    assert found.closer(int(order[T // 2])) == pytest.approx(T // 2 / (T - 1))


def test_flips_of_other_routers_or_of_a_changed_run_are_refused(trace, routers, residuals):
    with pytest.raises(LensError, match="Open the routers of the model that made the trace"):
        nearby.flips(trace, routers_of(1), 0)
    bare = routers_of(norm_scales=None)
    with pytest.raises(LensError, match="norm whose scales are known"):
        nearby.flips(dataclasses.replace(trace, model_sha256=bare.sha256), bare, 0)
    with pytest.raises(LensError, match="rows 0 to 1"):
        nearby.flips(trace, routers, 5)
    logits = logits_of(routers, residuals)
    last = np.argsort(-logits, axis=-1)[..., -K:].astype(np.int32)
    forced = dataclasses.replace(
        trace,
        experts=last,
        gates=np.take_along_axis(trace.router_probs, last, -1),
        settings={"interventions": ["force"]},
    )
    with pytest.raises(LensError, match="changed by an intervention"):
        nearby.flips(forced, routers, 0)


def test_a_model_pushed_by_a_little_more_than_its_smallest_push_chooses_other_experts():
    from pathlib import Path

    from grok import load
    from grok.interventions.edits import add_vector, edit
    from lens.extract.grok1 import extract_routers

    folder = Path(__file__).parents[2] / "data" / "tiny12"
    model, own = load(folder, dtype="float32"), extract_routers(folder)
    prompt, layer, token = [5, 17, 3, 42, 99, 256, 12, 7], 4, 6
    with model.trace(prompt) as run:
        stream = run.layers[layer].resid_mid.save()
    plain = run.routing
    found = nearby.flips(plain, own, layer)
    h = np.asarray(stream.value)[token]
    w = own.routers[layer] * own.norm_scales[layer][:, None]
    way = w[:, found.enters[token]] - w[:, found.leaves[token]]
    way = way / np.linalg.norm(way)
    for factor, flips in ((0.98, False), (1.02, True)):
        vector = (way * found.push[token] * factor * np.linalg.norm(h)).astype(np.float32)
        edits = edit("resid_mid", add_vector(vector), layers=layer, positions=[token])
        changed = model.trace_routing(prompt, edits=edits)
        before = set(plain.experts[layer, token].tolist())
        after = set(changed.experts[layer, token].tolist())
        assert (after != before) is flips


# --- tokens that were routed alike ----------------------------------------------------


def test_js_distance_of_distributions_that_share_nothing_is_root_ln_2():
    p, q = np.array([1.0, 0, 0]), np.array([0, 0.5, 0.5])
    assert nearby.js_distance(p, q) == pytest.approx(np.sqrt(np.log(2)))
    assert nearby.js_distance(p, p) == 0
    from scipy.spatial.distance import jensenshannon

    rng = np.random.default_rng(0)
    a, b = rng.dirichlet(np.ones(5), 20), rng.dirichlet(np.ones(5), 20)
    np.testing.assert_allclose(nearby.js_distance(a, b), jensenshannon(a, b, axis=1), atol=1e-9)


def test_a_planted_twin_is_the_nearest_token_and_rarer_than_chance(trace):
    logits = trace.router_logits.astype(np.float64)
    logits[1, 20] = logits[1, 4] + 1e-4
    logits[1, 20, 0] += 1e-3
    found = nearby.neighbours(trace_of(logits), 1, 4)
    assert found.tokens[0] == 20 and 4 not in found.tokens
    assert (np.diff(found.distance) >= 0).all()
    assert found.closer[0] == pytest.approx(1 / found.pairs)
    assert found.as_near == pytest.approx(2 / 30)  # it and its twin
    assert found.median > 5 * found.distance[0]


def test_the_rank_of_a_nearest_neighbour_is_that_among_all_tokens():
    one = trace_of(np.random.default_rng(3).standard_normal((1, 40, 8)))
    nearest = nearby.nearest_distances(one.router_probs[0])
    ranks = [nearby.neighbours(one, 0, t, nearest=nearest).as_near for t in range(40)]
    table = nearby.js_distance(one.router_probs[0][:, None], one.router_probs[0])
    np.fill_diagonal(table, np.inf)
    own = table.min(axis=1)
    np.testing.assert_allclose(nearest, np.sort(own))
    np.testing.assert_allclose(ranks, [(own <= own[t] * (1 + 1e-9)).mean() for t in range(40)])


def test_of_many_tokens_some_nearest_neighbours_are_looked_for():
    probs = np.random.default_rng(1).dirichlet(np.ones(4), 300)
    some = nearby.nearest_distances(probs, most=15_000)
    assert len(some) == 50 and np.isin(some, nearby.nearest_distances(probs)).all()


def test_of_many_tokens_pairs_are_drawn_and_say_so():
    probs = np.random.default_rng(0).dirichlet(np.ones(4), 300)
    every, none = nearby.pair_distances(probs)
    some, seed = nearby.pair_distances(probs, most=4000, seed=5)
    assert none is None and seed == 5
    assert len(every) == 300 * 299 // 2 and len(some) == 4000
    assert np.median(some) == pytest.approx(np.median(every), rel=0.05)
    assert some.min() > 0  # no token beside itself


def test_a_text_of_one_token_has_no_neighbours(trace):
    with pytest.raises(LensError, match="no neighbours"):
        nearby.neighbours(trace_of(np.zeros((1, 1, 4))), 0, 0)
    with pytest.raises(LensError, match="2 layers and 30 tokens"):
        nearby.neighbours(trace, 0, 30)
