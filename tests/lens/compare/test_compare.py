"""Two router sets side by side: what was planted is found, what is the same is called so."""

import html
import json
from pathlib import Path

import numpy as np
import pytest

from lens.compare.__main__ import main, summary
from lens.compare.headline import headline
from lens.errors import LensError
from lens.layers.similarity import layer_similarity
from lens.model_pairs.comparison import (
    SHARED_ONLY,
    Comparison,
    compare_routers,
    compare_structure,
    why_not_directions,
)
from lens.model_pairs.depth_profiles import depth_profiles
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet, save_routers
from lens.storage.csv_text import read_csv
from tests.headline_words import faults
from tests.lens.router_noise import KINDS, noise

RNG = np.random.default_rng(97)
L, D, E = 8, 120, 6


@pytest.fixture(autouse=True)
def same_numbers_in_any_order_of_tests():
    RNG.bit_generator.state = np.random.default_rng(98).bit_generator.state


def drifting() -> np.ndarray:
    """Layers that share more the closer they are."""
    layer, layers = RNG.standard_normal((D, E)), []
    for _ in range(L):
        layer = 0.7 * layer + 0.7 * RNG.standard_normal((D, E))
        layers.append(layer)
    return np.stack(layers).astype(np.float32)


def routers(weights: np.ndarray, **settings: object) -> RouterSet:
    scales = np.ones(weights.shape[:2], np.float32)
    return RouterSet(weights.astype(np.float32), scales, **settings)


A = drifting()


def sets(other: RouterSet) -> tuple[RouterSet, RouterSet]:
    return routers(A), other


def compared(weights: np.ndarray, **settings: object) -> Comparison:
    return compare_routers(routers(A), routers(weights, **settings), draws=400)


def verdicts(found: Comparison) -> list[str]:
    return [found.verdict(pair) for pair in range(len(found.pairs))]


def test_a_set_is_unchanged_beside_itself():
    found = compared(A)
    assert verdicts(found) == ["unchanged"] * L
    np.testing.assert_allclose(found.similarity, 1, atol=1e-5)
    np.testing.assert_allclose(found.norm_ratio, 1, atol=1e-5)
    np.testing.assert_allclose(found.breadth_change, 0, atol=1e-9)
    np.testing.assert_array_equal(found.alignment, np.arange(L))
    assert (found.expert_q <= 1e-3).all()


def test_relabelled_experts_are_the_same_layer_under_other_labels():
    order = np.roll(np.arange(E), 2)
    weights = A.copy()
    weights[3] = weights[3][:, order]
    found = compared(weights)
    assert verdicts(found) == ["unchanged"] * 3 + ["relabelled"] + ["unchanged"] * 4
    np.testing.assert_array_equal(order[found.partner[3]], np.arange(E))
    np.testing.assert_allclose(found.norm_ratio, 1, atol=1e-5)


def test_a_shared_column_and_a_scale_are_no_change_of_direction():
    weights = 3 * (A + RNG.standard_normal((L, D, 1)))
    found = compared(weights)
    assert verdicts(found) == ["unchanged"] * L
    np.testing.assert_allclose(found.norm_ratio, 3, rtol=1e-4)


def test_noise_on_one_layer_and_one_new_expert_are_changes_of_those_alone():
    weights = A.copy()
    weights[2] += 0.4 * RNG.standard_normal((D, E))
    weights[5, :, 4] = 1.2 * RNG.standard_normal(D)
    found = compared(weights)
    said = verdicts(found)
    assert said[2] == said[5] == "changed"
    assert said.count("unchanged") == L - 2
    assert found.expert_q[5, 4] > 0.05 and (np.delete(found.expert_q[5], 4) < 0.01).all()
    assert (found.expert_q[2] < 0.01).all()


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda w: w, "the same experts under the same numbers"),
        (lambda w: w[:, :, ::-1], "some have other numbers"),
        (lambda w: w + 0.1 * RNG.standard_normal(w.shape), "Every layer still routes like"),
        (lambda w: RNG.standard_normal(w.shape), "No layer routes like"),
    ],
)
def test_a_comparison_comes_to_one_plain_sentence(change, said):
    a, b = routers(A), routers(np.ascontiguousarray(change(A)))
    found = compare_routers(a, b, draws=400)
    told = headline(a, found, compare_structure(a, b, draws=400), "in full")
    assert said in told.sentence and not faults(told.sentence)
    assert told.found == ("No layer" not in said)
    assert told.detail == "in full"


def test_independent_sets_are_unrelated_layer_by_layer():
    found = compare_routers(
        routers(RNG.standard_normal((L, D, E))), routers(RNG.standard_normal((L, D, E))), draws=400
    )
    assert verdicts(found).count("unrelated") >= L - 1
    assert (found.all_q <= 0.05).mean() < 0.05
    assert (found.expert_q <= 0.05).mean() < 0.05


def test_p_values_of_unrelated_layers_are_uniform():
    values = []
    for seed in range(8):
        a, b = (routers(RNG.standard_normal((L, D, E))) for _ in range(2))
        found = compare_routers(a, b, draws=300, seed=seed)
        values += [*found.p, *found.expert_p.ravel()]
    values = np.sort(values)
    expected = (np.arange(len(values)) + 0.5) / len(values)
    assert np.abs(values - expected).max() < 0.09


@pytest.mark.parametrize("kind", ["shared γ, σ 0.5", "outlier × 15"])
def test_what_all_layers_share_makes_no_layer_a_counterpart_of_another(kind):
    """In 60 sets some layer is found in 3 and 5, some expert in 1 and 0."""
    found = []
    for seed in range(2):
        both = noise(kind, seed).routers
        found.append(compare_routers(routers(both[:6]), routers(both[6:]), draws=99, seed=seed))
    said = [verdict for one in found for verdict in verdicts(one)]
    assert said.count(SHARED_ONLY) >= 11
    assert sum((one.expert_q <= 0.05).any() for one in found) <= 1
    assert all((one.unrelated_q <= 0.05).sum() >= 5 for one in found)


def test_layers_that_went_on_are_found_beside_what_all_layers_share():
    rng = np.random.default_rng(5)
    base = rng.standard_normal((12, 256, 8))
    base[6:] = 0.7 * base[:6][:, :, rng.permutation(8)] + 0.7 * base[6:]
    scaled = KINDS["shared γ, σ 0.5"](rng, base)
    found = compare_routers(routers(scaled[:6]), routers(scaled[6:]), draws=99)
    assert verdicts(found) == ["changed, relabelled"] * 6
    assert (found.expert_q <= 0.05).mean() > 0.8  # 0.95 of 20 sets
    assert found.cosine.mean() > found.mixed_cosine + 0.2


def test_inserted_layers_show_in_the_alignment():
    weights = np.concatenate([A[:4], RNG.standard_normal((1, D, E)), A[4:]])
    found = compared(weights)
    np.testing.assert_array_equal(found.alignment, [0, 1, 2, 3, 5, 6, 7, 8])
    assert verdicts(found)[:4] == ["unchanged"] * 4 and verdicts(found)[4] == "unrelated"


def test_layers_are_paired_by_their_numbers():
    found = compare_routers(
        routers(A, layer_ids=np.arange(L)), routers(A[2:], layer_ids=np.arange(2, L)), draws=100
    )
    np.testing.assert_array_equal(found.pairs, [[i, i - 2] for i in range(2, L)])
    assert verdicts(found) == ["unchanged"] * (L - 2)


def test_a_turned_residual_stream_changes_all_directions_and_no_structure():
    turn = np.linalg.qr(RNG.standard_normal((D, D)))[0]
    turned = routers(turn @ A)
    found = compare_routers(routers(A), turned, draws=300)
    assert verdicts(found).count("unrelated") >= L - 1
    alike = compare_structure(routers(A), turned, draws=300)
    assert alike.correlation == pytest.approx(1, abs=1e-4) and alike.p <= 0.01
    assert alike.same
    assert any(line.startswith("Rotated alike") for line in summary(*sets(turned), found, alike))


def test_sets_that_differ_in_one_layer_are_not_rotated_alike():
    weights = A.copy()
    weights[2] += 0.05 * RNG.standard_normal((D, E))
    assert not compare_structure(routers(A), routers(weights), draws=19).same
    assert compare_structure(routers(A), routers(2 * A[:, :, ::-1]), draws=19).same


def test_the_interval_of_a_changed_layer_holds_its_similarity_and_narrows_with_likeness():
    weights = A.copy()
    weights[2] += 0.3 * RNG.standard_normal((D, E))
    found = compared(weights)
    assert (found.low <= found.similarity + 1e-6).all()
    assert (found.similarity <= found.high + 1e-6).all()
    width = found.high - found.low
    assert width[2] > 0.01 > np.delete(width, 2).max()
    assert found.bootstrap_draws == 400


def test_an_angle_is_that_between_the_columns():
    turned = A.copy()
    first, second = (
        A[0, :, 0],
        A[0, :, 1] - A[0, :, 0] * (A[0, :, 0] @ A[0, :, 1]) / (A[0, :, 0] @ A[0, :, 0]),
    )
    second = second * np.linalg.norm(first) / np.linalg.norm(second)
    turned[0, :, 0] = np.cos(np.radians(30)) * first + np.sin(np.radians(30)) * second
    found = compare_routers(routers(A), routers(turned), "raw", draws=100)
    assert found.angle[0, 0] == pytest.approx(30, abs=0.01)
    np.testing.assert_allclose(found.angle[1:], 0, atol=0.2)


@pytest.mark.parametrize("metric", ["matched_cosine", "principal_angles", "cosine"])
def test_any_metric_of_layers_can_be_asked_for(metric):
    weights = A.copy()
    weights[6] = RNG.standard_normal((D, E))
    found = compare_routers(routers(A), routers(weights), metric=metric, draws=200)
    assert found.metric == metric
    assert verdicts(found).count("unchanged") == L - 1 and found.q[6] > 0.05
    np.testing.assert_allclose(np.delete(found.similarity, 6), 1, atol=1e-4)


def test_the_null_of_breadth_is_what_equal_experts_differ_by():
    weights = RNG.standard_normal((2, 40, D, E))
    inside = 0
    for pair in range(8):
        a, b = (routers(weights[s, 2 * pair : 2 * pair + 2]) for s in (0, 1))
        found = compare_routers(a, b, draws=19)
        assert found.breadth_null is not None
        band = found.breadth_null
        inside += band.low <= np.abs(found.breadth_change).max() <= band.high
    assert inside >= 6
    half = [routers(w[:2, :, :4]) for w in weights]
    assert compare_routers(*half, draws=19).breadth_null is None


def test_courses_over_depth_agree_whatever_the_width_and_chance_does_not():
    growth = np.linspace(1, 3, L)[:, None, None]
    wide = np.stack([np.pad(layer, ((0, 40), (0, 0))) for layer in A])
    profiles = {p.name: p for p in depth_profiles(routers(growth * A), routers(2 * growth * wide))}
    lengths = profiles["length of router columns"]
    assert lengths.correlation == pytest.approx(1) and lengths.q <= 0.01
    rank = profiles["effective rank of the router"]
    canonical = A[0] - A[0].mean(axis=1, keepdims=True)
    values = np.linalg.svd(canonical, compute_uv=False) ** 2
    assert rank.a[0] == pytest.approx(values.sum() ** 2 / (values**2).sum() / (E - 1), rel=1e-4)
    few = depth_profiles(routers(A[:3]), routers(A[:3]))
    assert all(np.isnan(p.correlation) and np.isnan(p.q) for p in few)


def test_p_values_of_unrelated_courses_are_uniform():
    p = [
        profile.p
        for seed in range(40)
        for profile in depth_profiles(
            routers(RNG.standard_normal((6, 30, 4))[..., :3]),
            routers(RNG.standard_normal((9, 50, 5))),
            draws=99,
            seed=seed,
        )
    ]
    expected = (np.arange(len(p)) + 0.5) / len(p)
    assert len(p) == 120 and np.abs(np.sort(p) - expected).max() < 0.16


def test_structure_is_the_correlation_of_the_two_matrices_and_needs_no_equal_width():
    other = np.stack([np.pad(layer, ((0, 30), (0, 2))) for layer in A])
    other[:, D:] = 0.3 * RNG.standard_normal((L, 30, E + 2))
    other[:, :, E:] = RNG.standard_normal((L, D + 30, 2))
    b = routers(other)
    assert why_not_directions(routers(A), b) == "the widths differ (120 and 150)"
    alike = compare_structure(routers(A), b)
    upper = np.triu_indices(L, 1)
    matrices = [layer_similarity(router_gram(s), "cka")[upper] for s in (routers(A), b)]
    assert alike.correlation == pytest.approx(np.corrcoef(*matrices)[0, 1])
    assert alike.p <= 0.01


def test_unrelated_structures_have_uniform_p_values_and_few_layers_none():
    p = [
        compare_structure(
            routers(RNG.standard_normal((6, 30, 4))),
            routers(RNG.standard_normal((9, 50, 5))),
            draws=99,
            seed=seed,
        ).p
        for seed in range(60)
    ]
    assert np.abs(np.sort(p) - (np.arange(60) + 0.5) / 60).max() < 0.2
    few = compare_structure(routers(A[:3]), routers(A))
    assert np.isnan(few.correlation) and few.n_layers == 3


def test_directions_of_other_widths_are_refused_with_a_reason():
    with pytest.raises(LensError, match="the numbers of experts differ"):
        compare_routers(routers(A), routers(A[:, :, :4]))
    apart = routers(A, layer_ids=np.arange(50, 50 + L))
    assert why_not_directions(routers(A), apart) == "no layer has a number that both have"


def saved(tmp_path: Path, name: str, weights: np.ndarray) -> str:
    path = tmp_path / name
    save_routers(routers(weights, source=name), path)
    return str(path)


def test_the_command_says_what_changed_and_writes_tables_and_figures(tmp_path, capsys):
    weights = A.copy()
    weights[6] = RNG.standard_normal((D, E))
    a, b = saved(tmp_path, "a.npz", A), saved(tmp_path, "b.npz", weights)
    out = tmp_path / "out"
    assert main([a, b, "--output-dir", str(out), "--draws", "200", "--seed", "4"]) == 0
    said = capsys.readouterr().out
    assert "7 unchanged, 1 unrelated" in said and "Unrelated: L6" in said
    assert "200 draws, seed 4" in said and "13 files in" in said
    names = {path.name for path in out.iterdir()}
    assert {"layers.csv", "experts.csv", "layers_changed.svg", "layers_across.png"} <= names
    page = (out / "compare.html").read_text(encoding="utf-8")
    assert page.count("data:image/") == 4 and "<script" not in page
    assert all(html.escape(line) in page for line in said.splitlines()[4:-1])
    assert page.count("Method. ") == 3
    rows = read_csv((out / "layers.csv").read_text())
    assert len(rows) == L + 1 and rows[7][:2] == ["L6", "unrelated"]
    assert len(read_csv((out / "experts.csv").read_text())) == L * E + 1
    index = json.loads((out / "compare.json").read_text(encoding="utf-8"))
    assert index["settings"] == {"view": "canonical", "metric": "cka", "draws": 200, "seed": 4}
    assert {entry["file"] for entry in index["files"]} | {"compare.json"} == names


def test_the_command_compares_structure_where_directions_cannot_be(tmp_path, capsys):
    a, b = saved(tmp_path, "a.npz", A), saved(tmp_path, "b.npz", A[:, :60])
    assert main([a, b, "--draws", "50"]) == 0
    said = capsys.readouterr().out
    assert "Directions cannot be compared: the widths differ" in said
    assert "Structure over depth: alike" in said


def test_the_command_refuses_what_it_cannot_read(tmp_path, capsys):
    a = saved(tmp_path, "a.npz", A)
    (tmp_path / "bad.npz").write_bytes(b"no")
    for arguments, message in (
        ([a, str(tmp_path / "bad.npz")], "bad.npz"),
        ([a, str(tmp_path / "none.npz")], "none.npz"),
        ([a, a, "--draws", "3"], "draws: found 3"),
        ([a, a, "--seed", "-1"], "--seed: found -1"),
        ([a, a, "--output-dir", a], "expected a folder"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_the_summary_names_layers_by_their_own_numbers():
    ids = np.arange(10, 10 + L)
    a, b = routers(A, layer_ids=ids), routers(A + 0.3 * drifting(), layer_ids=ids)
    found = compare_routers(a, b, draws=100)
    text = "\n".join(summary(a, b, found, compare_structure(a, b, draws=100)))
    assert "Changed: L1" in text and "L3 " not in text
