"""Two router sets side by side: what was planted is found, what is the same is called so."""

from pathlib import Path

import numpy as np
import pytest

from lens.compare import main, summary
from lens.comparison import Comparison, compare_routers, compare_structure, why_not_directions
from lens.errors import LensError
from lens.gram import router_gram
from lens.routers import RouterSet, save_routers
from lens.similarity import layer_similarity

RNG = np.random.default_rng(97)
L, D, E = 8, 120, 6


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


def compared(weights: np.ndarray, **settings: object) -> Comparison:
    return compare_routers(routers(A), routers(weights, **settings), draws=400)


def verdicts(found: Comparison) -> list[str]:
    return [found.verdict(pair) for pair in range(len(found.pairs))]


def test_a_set_is_unchanged_beside_itself():
    found = compared(A)
    assert verdicts(found) == ["unchanged"] * L
    np.testing.assert_allclose(found.cka, 1, atol=1e-5)
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


def test_independent_sets_are_unrelated_layer_by_layer():
    found = compare_routers(
        routers(RNG.standard_normal((L, D, E))), routers(RNG.standard_normal((L, D, E))), draws=400
    )
    assert verdicts(found).count("unrelated") >= L - 1
    assert (found.all_q <= 0.05).mean() < 0.05
    assert (found.expert_q <= 0.05).mean() < 0.05


def test_p_values_of_unrelated_layers_are_uniform():
    values = []
    for seed in range(12):
        a, b = (routers(RNG.standard_normal((L, D, E))) for _ in range(2))
        found = compare_routers(a, b, draws=300, seed=seed)
        values += [*found.p, *found.expert_p.ravel()]
    values = np.sort(values)
    expected = (np.arange(len(values)) + 0.5) / len(values)
    assert np.abs(values - expected).max() < 0.08


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
    assert "200 draws, seed 4" in said and "7 files in" in said
    names = {path.name for path in out.iterdir()}
    assert {"layers.csv", "experts.csv", "layers_changed.svg", "layers_across.png"} <= names
    rows = (out / "layers.csv").read_text().splitlines()
    assert len(rows) == L + 1 and rows[7].startswith("L6,unrelated")
    assert len((out / "experts.csv").read_text().splitlines()) == L * E + 1
    assert (out / "summary.txt").read_text() in said


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
        ([a, a, "--output-dir", a], "Choose a folder"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_the_summary_names_layers_by_their_own_numbers():
    ids = np.arange(10, 10 + L)
    a, b = routers(A, layer_ids=ids), routers(A + 0.3 * drifting(), layer_ids=ids)
    found = compare_routers(a, b, draws=100)
    text = "\n".join(summary(a, b, found, compare_structure(a, b, draws=100)))
    assert "Changed: L1" in text and "L3 " not in text
