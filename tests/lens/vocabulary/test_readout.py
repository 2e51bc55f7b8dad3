"""Read-outs agree with a plain computation, find what was planted and nothing in noise."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from grok.checkpoints.grok1 import EMBEDDING, open_checkpoint
from grok.config import BUNDLED_MODEL
from lens.errors import LensError
from lens.extract.grok1 import extract_routers
from lens.routers.expert_mixing import expert_mixings
from lens.routers.gram import gram_of_columns
from lens.routers.router_set import RouterSet
from lens.vocabulary.mixed_experts import mixture_tail
from lens.vocabulary.one_token import token_reading
from lens.vocabulary.readout import (
    ArrayRows,
    Readout,
    ReadoutSettings,
    new_digest,
    vocabulary_readout,
)
from lens.vocabulary.readout_null import random_frames

TINY = Path(__file__).resolve().parents[2] / "data" / "tiny12"
FEW = ReadoutSettings(kept=6, draws=100)


@cache
def model(folder: Path) -> tuple[RouterSet, ArrayRows]:
    checkpoint = open_checkpoint(folder)
    rows = checkpoint.read(EMBEDDING)
    assert isinstance(rows, np.ndarray)
    return extract_routers(folder), ArrayRows(rows, checkpoint.config.embedding_multiplier)


def noise(n_layers: int = 4, d_model: int = 32, n_experts: int = 6, **more: Any) -> RouterSet:
    rng = np.random.default_rng(more.pop("seed", 1))
    weights = rng.standard_normal((n_layers, d_model, n_experts)).astype(np.float32)
    scales = rng.uniform(0.5, 2, (n_layers, d_model)).astype(np.float32)
    return RouterSet(weights, scales, **more)


def words(n_tokens: int = 300, d_model: int = 32, seed: int = 2) -> np.ndarray:
    """An uneven cloud: a shared direction, and a spread that differs between directions."""
    rng = np.random.default_rng(seed)
    cloud = rng.standard_normal((n_tokens, d_model)) * np.geomspace(3, 0.3, d_model)
    return (cloud + rng.standard_normal(d_model)).astype(np.float32)


def plain_pushes(routers: RouterSet, embedding: ArrayRows) -> np.ndarray:
    """Logits [V, L, E], one expert at a time in float64, from the model's own formulas."""
    rows = embedding.array.astype(np.float64) * embedding.multiplier
    normed = rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-5)
    out = np.empty((len(rows), routers.n_layers, routers.n_experts))
    for layer in range(routers.n_layers):
        scale = 1.0 if routers.norm_scales is None else routers.norm_scales[layer]
        logits = (normed * np.asarray(scale, float)) @ routers.routers[layer].astype(float)
        out[:, layer] = logits - logits.mean(axis=1, keepdims=True)
    return out


def plain_margin(scores: np.ndarray, expert: int, top_k: int) -> float:
    others = sorted(np.delete(scores, expert), reverse=True)
    return float(scores[expert] - others[top_k - 1])


@pytest.mark.parametrize(
    "folder", [TINY, pytest.param(BUNDLED_MODEL, id="bundled")], ids=lambda f: f.name
)
def test_readout_agrees_with_a_plain_computation(folder: Path) -> None:
    routers, embedding = model(folder)
    readout = vocabulary_readout(routers, embedding, FEW, block_bytes=2**20)
    pushes = plain_pushes(routers, embedding)
    order = np.sort(pushes, axis=0)
    for e, (ids, values, best) in {
        "top": (readout.top, readout.top_push, order[::-1]),
        "bottom": (readout.bottom, readout.bottom_push, order),
    }.items():
        np.testing.assert_allclose(values, np.moveaxis(best[:6], 0, -1), atol=2e-5, err_msg=e)
        found = np.take_along_axis(np.moveaxis(pushes, 0, -1), ids, axis=-1)
        np.testing.assert_allclose(values, found, atol=2e-5, err_msg=e)
    np.testing.assert_allclose(readout.mean, pushes.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(readout.sd, pushes.std(axis=0), rtol=1e-5)
    first = np.argsort(-pushes, axis=2)[:, :, : routers.top_k]
    counts = (first[..., None] == np.arange(routers.n_experts)).any(axis=2).sum(axis=0)
    assert np.abs(readout.share * readout.n_tokens - counts).max() <= 1  # a near tie may turn over
    for layer, expert, rank in np.ndindex(3, routers.n_experts, 6):
        token = readout.top[layer, expert, rank]
        margin = plain_margin(pushes[token, layer], expert, routers.top_k)
        assert readout.top_margin[layer, expert, rank] == pytest.approx(margin, abs=5e-5)
        token = readout.bottom[layer, expert, rank]
        margin = plain_margin(pushes[token, layer], expert, routers.top_k)
        assert readout.bottom_margin[layer, expert, rank] == pytest.approx(margin, abs=5e-5)


def test_a_token_is_read_as_the_readout_reads_it() -> None:
    routers, embedding = model(TINY)
    pushes = plain_pushes(routers, embedding)
    for token in (0, 77, 511):
        reading = token_reading(routers, embedding.array[token], embedding.multiplier)
        np.testing.assert_allclose(reading.push, pushes[token], atol=2e-5)
        order = np.argsort(-pushes[token], axis=1)[:, : routers.top_k]
        np.testing.assert_array_equal(reading.chosen, order)
        for layer, expert in np.ndindex(reading.push.shape):
            margin = plain_margin(pushes[token, layer], expert, routers.top_k)
            assert reading.margin[layer, expert] == pytest.approx(margin, abs=5e-5)
            assert (margin > 0) == (expert in order[layer])


def test_p_of_a_token_beside_random_directions_and_beside_mixtures() -> None:
    rng = np.random.default_rng(0)
    routers = noise(n_layers=200, d_model=20, n_experts=8)
    reading = token_reading(routers, rng.standard_normal(20).astype(np.float32))
    # Eight columns of a layer hang together; one of each layer does not.
    assert stats.kstest(reading.unrelated_p[:, 0], "uniform").pvalue > 0.01
    assert stats.kstest(reading.p[:, 0], "uniform").pvalue > 0.01
    assert abs(float(np.mean(reading.z**2)) - 1) < 0.1
    aligned = token_reading(routers, routers.columns()[3, :, 2])
    for p in (aligned.p, aligned.unrelated_p):
        assert np.unravel_index(np.argmin(p), p.shape) == (3, 2)
    assert aligned.unrelated_q[3, 2] < 1e-6 and aligned.p[3, 2] < 1e-6
    raw = token_reading(routers, routers.routers[3, :, 2], view="raw")
    np.testing.assert_array_equal(raw.p, raw.unrelated_p)


@pytest.mark.parametrize("block_bytes", [1, 50_000, 10**8])
def test_readout_does_not_depend_on_how_tokens_are_cut_into_blocks(block_bytes: int) -> None:
    routers, embedding = noise(), ArrayRows(words(), 3.0)
    whole = vocabulary_readout(routers, embedding, FEW)
    cut = vocabulary_readout(routers, embedding, FEW, block_bytes=block_bytes)
    np.testing.assert_array_equal(whole.top, cut.top)
    np.testing.assert_array_equal(whole.bottom, cut.bottom)
    np.testing.assert_array_equal(whole.share, cut.share)
    for name in ("top_push", "bottom_margin", "sd", "chance_top", "chance_sd", "share_low"):
        np.testing.assert_allclose(getattr(whole, name), getattr(cut, name), rtol=1e-4, atol=1e-5)


def same_tokens(a: Readout, b: Readout, scale: np.ndarray | float = 1.0) -> None:
    np.testing.assert_array_equal(a.top[..., :4], b.top[..., :4])
    np.testing.assert_allclose(a.top_push * scale, b.top_push, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(a.top_margin * scale, b.top_margin, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(a.share, b.share, atol=2 / a.n_tokens)
    np.testing.assert_allclose(a.p, b.p, rtol=1e-3, atol=1e-6)


def test_a_vector_shared_by_all_columns_of_a_layer_changes_nothing() -> None:
    routers, embedding = noise(), ArrayRows(words())
    shared = np.random.default_rng(5).standard_normal((4, 32, 1)).astype(np.float32)
    moved = replace(routers, routers=routers.routers + shared)
    same_tokens(
        vocabulary_readout(routers, embedding, FEW), vocabulary_readout(moved, embedding, FEW)
    )


def test_a_positive_scale_of_a_layer_scales_its_pushes_and_changes_no_order() -> None:
    routers, embedding = noise(), ArrayRows(words())
    scale = np.array([0.01, 1, 7, 300], np.float32)[:, None, None]
    scaled = replace(routers, routers=routers.routers * scale)
    a, b = (vocabulary_readout(r, embedding, FEW) for r in (routers, scaled))
    same_tokens(a, replace_pushes(b, 1 / scale))
    np.testing.assert_array_equal(a.share, b.share)


def replace_pushes(readout: Readout, scale: np.ndarray) -> Readout:
    names = ("top_push", "top_margin", "bottom_push", "bottom_margin")
    changed = {name: getattr(readout, name) * scale for name in names}
    per_expert = {name: getattr(readout, name) * scale[..., 0] for name in ("sd", "norm")}
    return replace(readout, **changed, **per_expert)


def test_renumbering_experts_renumbers_the_readout() -> None:
    routers, embedding = noise(), ArrayRows(words())
    order = np.array([3, 0, 5, 1, 4, 2])
    renumbered = replace(routers, routers=routers.routers[:, :, order])
    a, b = (vocabulary_readout(r, embedding, FEW) for r in (routers, renumbered))
    np.testing.assert_array_equal(a.top[:, order], b.top)
    np.testing.assert_allclose(a.share[:, order], b.share, atol=2 / 300)


def test_norm_scales_are_folded_in_and_the_raw_view_leaves_them_out() -> None:
    routers, embedding = noise(), ArrayRows(words())
    assert routers.norm_scales is not None
    folded = replace(
        routers, routers=routers.routers * routers.norm_scales[:, :, None], norm_scales=None
    )
    a, b = (vocabulary_readout(r, embedding, FEW) for r in (routers, folded))
    same_tokens(a, b)
    raw = vocabulary_readout(routers, embedding, replace(FEW, view="raw"))
    rows = embedding.array.astype(float)
    normed = rows / np.sqrt((rows**2).mean(axis=1, keepdims=True) + 1e-5)
    best = (normed @ routers.routers[2, :, 1]).max()
    assert raw.top_push[2, 1, 0] == pytest.approx(best, rel=1e-5)


def test_the_multiplier_matters_as_much_as_the_norm_s_epsilon() -> None:
    routers = noise()
    small = ArrayRows(words() * np.float32(1e-3), 1.0)
    readout = vocabulary_readout(routers, small, FEW)
    pushes = plain_pushes(routers, small)
    np.testing.assert_allclose(readout.top_push[..., 0], pushes.max(axis=0), rtol=1e-4)
    large = vocabulary_readout(routers, replace(small, multiplier=1000.0), FEW)
    assert (large.top_push > readout.top_push * 1.1).all()


def test_an_embedding_along_an_expert_s_column_comes_out_on_top() -> None:
    routers = noise(n_layers=3, d_model=64, n_experts=8)
    rows = np.random.default_rng(7).standard_normal((500, 64)).astype(np.float32)
    columns = routers.columns()
    rows[123], rows[321] = columns[1, :, 5], -columns[2, :, 0]
    readout = vocabulary_readout(routers, ArrayRows(rows), ReadoutSettings(kept=3))
    assert readout.top[1, 5, 0] == 123 and readout.bottom[2, 0, 0] == 321
    assert readout.top_margin[1, 5, 0] > 0 > readout.bottom_margin[2, 0, 0]
    called = np.argwhere(readout.beyond_mixed("top"))
    assert [1, 5] in called.tolist() and len(called) <= 2
    assert readout.beyond_mixed("bottom")[2, 0]


def test_experts_that_tell_groups_apart_have_more_spread_than_random_directions() -> None:
    rng = np.random.default_rng(3)
    directions = rng.standard_normal((4, 96)) * 2
    rows = rng.standard_normal((800, 96)) + directions[rng.integers(0, 4, 800)]
    weights = rng.standard_normal((2, 96, 4))
    weights[1] = directions.T
    routers = RouterSet(weights.astype(np.float32))
    readout = vocabulary_readout(routers, ArrayRows(rows.astype(np.float32)), FEW)
    assert (readout.unrelated_q[2, 1] <= 0.05).all() and (readout.unrelated_q[2, 0] > 0.05).all()
    assert not readout.beyond_mixed("spread").any()  # all of the layer do, and so do mixtures


@pytest.mark.parametrize("kind", ["isotropic", "outlier", "lognormal"])
def test_sharing_large_directions_with_the_embedding_is_no_finding(kind: str) -> None:
    """In 25 sets of each kind 4 to 6 % of p-values at 0.05; random directions: 5, 68, 80 %."""
    found, beside, tokens, outside = [], [], [], []
    for seed in range(6):
        routers, rows = alike(kind, seed)
        readout = vocabulary_readout(routers, ArrayRows(rows), replace(FEW, kept=2))
        found.append(readout.p)
        beside.append(readout.unrelated_q)
        tokens.append(token_reading(routers, rows[5]).p)
        outside.append((readout.share < readout.share_low) | (readout.share > readout.share_high))
        assert (readout.q <= 0.05).sum() <= 1
    for values in (*np.stack(found, axis=1), np.array(tokens)):
        assert 0.02 < (values <= 0.05).mean() < 0.085
    assert stats.kstest(np.array(tokens)[..., 3].ravel(), "uniform").pvalue > 1e-3
    assert 0.02 < np.mean(outside) < 0.085
    assert (np.mean(np.array(beside) <= 0.05) > 0.5) == (kind != "isotropic")


@pytest.mark.parametrize("kind, found", [("isotropic", 8), ("outlier", 1), ("lognormal", 1)])
def test_a_planted_token_is_found_beside_large_shared_directions(kind: str, found: int) -> None:
    """A token at a cosine of 0.9: found in 25, 9 and 8 of 25 sets by its readout."""
    largest, one = 0, 0
    for seed in range(8):
        routers, rows = alike(kind, seed)
        column = routers.columns()[4, :, 3]
        column = column / np.linalg.norm(column)
        rest = rows[7] - rows[7] @ column * column
        size = np.linalg.norm(rows[7])
        rows[7] = (0.9 * column + np.sqrt(0.19) * rest / np.linalg.norm(rest)) * size
        largest += vocabulary_readout(routers, ArrayRows(rows), FEW).q[0, 4, 3] <= 0.05
        one += token_reading(routers, rows[7]).q[4, 3] <= 0.05
    assert largest >= found and one >= found


def alike(kind: str, seed: int) -> tuple[RouterSet, np.ndarray]:
    """Noise whose router and embedding are large in the same directions [12, 64, 8]."""
    rng = np.random.default_rng([seed, 3])
    rows, weights = rng.standard_normal((400, 64)), rng.standard_normal((12, 64, 8))
    scale = np.ones(64)
    if kind == "outlier":
        scale[3] = 8
    elif kind == "lognormal":
        scale = np.exp(rng.standard_normal(64))
    rows = rows * scale + (kind != "isotropic") * scale * rng.standard_normal(64)
    return RouterSet((weights * scale[:, None]).astype(np.float32)), rows.astype(np.float32)


@pytest.mark.parametrize("n_experts", [2, 3, 8])
def test_the_closed_form_is_the_share_of_mixtures(n_experts: int) -> None:
    rng = np.random.default_rng(4)
    columns = rng.standard_normal((1, 30, n_experts)) * np.geomspace(0.3, 3, n_experts)
    columns -= columns.mean(axis=2, keepdims=True)
    gram = gram_of_columns(columns.astype(np.float32))
    pushes = rng.standard_normal((1, 30)) @ columns[0]
    unit = expert_mixings(1, n_experts, 4000).unit(gram, 0)
    drawn = np.einsum("te,dem->dm", pushes, unit).ravel()
    values = np.quantile(drawn, [0.6, 0.9, 0.99])
    shares = [(drawn >= value * (1 - 1e-5)).mean() for value in values]
    found = mixture_tail(gram.own[0], np.tile(pushes, (3, 1)), values)
    np.testing.assert_allclose(found, shares, atol=0.012)
    assert mixture_tail(gram.own[0], pushes, np.array([1e3]))[0] < 1e-9
    assert mixture_tail(gram.own[0], 0 * pushes, np.array([0.0]))[0] == 0.5


def test_shares_of_routers_that_know_nothing_lie_in_their_band() -> None:
    rows = ArrayRows(words(500, 40))
    routers = noise(n_layers=60, d_model=40, n_experts=4, seed=9, top_k=1)
    readout = vocabulary_readout(replace(routers, norm_scales=None), rows, FEW)
    inside = (readout.share >= readout.share_low) & (readout.share <= readout.share_high)
    assert 0.85 < inside.mean() < 0.99
    assert readout.frames == 40 and readout.draws == 160
    np.testing.assert_allclose(readout.share.sum(axis=1), 1)


def test_lengths_of_columns_alone_put_no_share_outside_of_its_band() -> None:
    """A mixture is as long as the expert it stands for, which decides much of its share."""
    routers = noise(n_layers=40, d_model=40, n_experts=4, seed=9, top_k=1)
    scale = np.geomspace(0.5, 2, 4, dtype=np.float32)
    uneven = replace(routers, routers=routers.routers * scale)
    readout = vocabulary_readout(uneven, ArrayRows(words(500, 40)), FEW)
    bands = (readout.share, readout.share_low, readout.share_high)
    shares, low, high = (values.mean(axis=0) for values in bands)
    assert shares[3] > 2 * shares[0] and low[3] > 2 * low[0] and high[3] > 1.2 * high[0]
    outside = (readout.share < readout.share_low) | (readout.share > readout.share_high)
    assert outside.mean() < 0.08  # 0.044


def test_tokens_sampled_for_bands_of_shares_do_not_depend_on_the_blocks() -> None:
    routers, embedding = noise(2, 8, 3), ArrayRows(words(9000, 8))
    settings = replace(FEW, kept=1)
    bands = []
    for block_bytes in (40_000, 70_000, 10**8):
        found = vocabulary_readout(routers, embedding, settings, block_bytes=block_bytes)
        bands.append((found.share_low, found.share_high))
    np.testing.assert_allclose(bands[0], bands[2], atol=1e-3)
    np.testing.assert_allclose(bands[1], bands[2], atol=1e-3)


def test_random_frames_are_orthonormal_and_evenly_spread() -> None:
    frames = random_frames(12, 5, 3000, seed=4)
    assert frames.shape == (600, 5, 12)
    gram = frames @ frames.transpose(0, 2, 1)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(5), gram.shape), atol=1e-5)
    np.testing.assert_allclose(frames.mean(axis=(0, 1)), 0, atol=0.03)
    flat = frames[:, 0].reshape(-1, 12)
    np.testing.assert_allclose(flat.T @ flat / len(flat), np.eye(12) / 12, atol=0.02)
    assert random_frames(3, 8, 100, seed=0).shape == (40, 3, 3)


def test_the_seed_decides_the_null_and_nothing_else() -> None:
    routers, embedding = noise(), ArrayRows(words())
    a, again = (vocabulary_readout(routers, embedding, FEW) for _ in range(2))
    b = vocabulary_readout(routers, embedding, replace(FEW, seed=1))
    np.testing.assert_array_equal(a.chance_top, again.chance_top)
    assert not np.array_equal(a.chance_top, b.chance_top)
    np.testing.assert_array_equal(a.top, b.top)


def test_bands_are_those_of_a_direction_as_long_as_the_expert_s_column() -> None:
    readout = vocabulary_readout(noise(), ArrayRows(words()), FEW)
    low, high = readout.chance_band(2, 3)
    drawn = readout.chance_top[:, 1] * readout.norm[2, 3]
    assert low[1] <= np.median(drawn) <= high[1]
    assert np.mean((drawn >= low[1]) & (drawn <= high[1])) == pytest.approx(0.95, abs=0.02)
    low, high = readout.chance_band(2, 3, "bottom")
    assert (low <= high).all() and high[0] < 0


def test_biases_decide_margins_and_shares_but_are_no_push() -> None:
    biases = np.zeros((4, 6), np.float32)
    biases[:, 2] = 1000
    plain, biased = noise(), noise(biases=biases)
    embedding = ArrayRows(words())
    a, b = (vocabulary_readout(r, embedding, FEW) for r in (plain, biased))
    np.testing.assert_array_equal(a.top_push, b.top_push)
    np.testing.assert_array_equal(b.share[:, 2], 1)
    assert (b.top_margin[:, 2] > 900).all() and (b.share_low[:, 2] == 1).all()
    assert token_reading(biased, embedding.array[0]).chosen[:, 0].tolist() == [2] * 4


def test_where_all_experts_are_selected_there_is_no_margin() -> None:
    readout = vocabulary_readout(noise(top_k=6), ArrayRows(words()), FEW)
    assert np.isnan(readout.top_margin).all()
    np.testing.assert_array_equal(readout.share, 1)


def test_tokens_without_an_embedding_are_counted_and_push_nothing() -> None:
    rows = words()
    rows[[4, 250]] = 0
    readout = vocabulary_readout(noise(), ArrayRows(rows), FEW)
    assert readout.silent == 2
    np.testing.assert_allclose(readout.share.sum(axis=1), 2)
    reading = token_reading(noise(), rows[4])
    assert (reading.push == 0).all() and (reading.p == 1).all()
    np.testing.assert_array_equal(reading.chosen, [[0, 1]] * 4)  # equal logits: smaller indexes


def test_more_tokens_are_asked_for_than_there_are() -> None:
    readout = vocabulary_readout(noise(), ArrayRows(words(5)), FEW)
    assert readout.top.shape == (4, 6, 5)
    np.testing.assert_array_equal(np.sort(readout.top, axis=-1)[0, 0], range(5))


@dataclass(frozen=True)
class Endless:
    """An embedding that is never in memory: every block is made when it is asked for."""

    n_tokens: int
    d_model: int = 64
    multiplier: float = 1.0
    epsilon: float = 1e-5
    centred: bool = False

    def blocks(
        self, rows: int, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for start in range(0, self.n_tokens, rows):
            n = min(rows, self.n_tokens - start)
            yield rng.standard_normal((n, self.d_model), dtype=np.float32)
            if progress is not None:
                progress(start + n, self.n_tokens)


def test_memory_does_not_grow_with_the_vocabulary() -> None:
    routers = noise(n_layers=2, d_model=64, n_experts=4)
    settings = ReadoutSettings(kept=5, draws=100)
    peaks = []
    for n_tokens in (20_000, 120_000):
        tracemalloc.start()
        vocabulary_readout(routers, Endless(n_tokens), settings, block_bytes=2**21)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0] + 2**20
    assert peaks[1] < 12 * 2**20  # the larger embedding alone is 31 MB


def test_progress_counts_tokens_and_can_stop_the_work() -> None:
    told: list[tuple[int, int]] = []
    vocabulary_readout(
        noise(),
        ArrayRows(words()),
        FEW,
        progress=lambda done, total: told.append((done, total)),
        block_bytes=100_000,
    )
    assert len(told) > 2 and told == sorted(told) and told[-1] == (300, 300)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vocabulary_readout(noise(), ArrayRows(words()), FEW, progress=stop)


def test_the_digest_is_that_of_all_rows_whatever_the_blocks() -> None:
    hashes = set()
    for block_bytes in (1, 40_000, 10**8):
        embedding = ArrayRows(words())
        digest = new_digest(embedding)
        vocabulary_readout(noise(), embedding, FEW, digest=digest, block_bytes=block_bytes)
        hashes.add(digest.hexdigest())
    assert len(hashes) == 1
    other = words()
    other[299, 31] += 1
    digest = new_digest(ArrayRows(other))
    vocabulary_readout(noise(), ArrayRows(other), FEW, digest=digest)
    assert digest.hexdigest() not in hashes


def test_an_embedding_of_another_width_is_refused() -> None:
    with pytest.raises(LensError, match="rows of 16 numbers and the routers read 32"):
        vocabulary_readout(noise(), ArrayRows(words(d_model=16)))
    with pytest.raises(LensError, match="rows of 16 numbers"):
        token_reading(noise(), words(d_model=16)[0])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_token_that_is_no_number_is_named(value: float) -> None:
    rows = words()
    rows[211, 3] = value
    with pytest.raises(LensError, match="embedding of token 211 is not finite, or too large"):
        vocabulary_readout(noise(), ArrayRows(rows), FEW, block_bytes=100_000)


def test_settings_out_of_range_are_refused() -> None:
    for settings, text in (
        (ReadoutSettings(draws=7), "draws: found 7; expected 100"),
        (ReadoutSettings(kept=0), "0 to keep"),
        (ReadoutSettings(view="upside down"), "view: found"),
    ):
        with pytest.raises(LensError, match=text):
            vocabulary_readout(noise(), ArrayRows(words()), settings)


def test_a_column_equal_to_its_layer_s_mean_is_refused_by_name() -> None:
    weights = np.ones((1, 4, 2), np.float32)
    weights[0, :, 1] = 1 + 1e-12
    with pytest.raises(LensError, match="L0·E0: the router column has length 0"):
        vocabulary_readout(RouterSet(weights), ArrayRows(words(20, 4)), FEW)


def test_an_embedding_that_ends_early_is_refused() -> None:
    @dataclass(frozen=True)
    class Short(ArrayRows):
        @property
        def n_tokens(self) -> int:
            return len(self.array) + 1

    with pytest.raises(LensError, match="gave 300 rows; expected 301"):
        vocabulary_readout(noise(), Short(words()), FEW)
