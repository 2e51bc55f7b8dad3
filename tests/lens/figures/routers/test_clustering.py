"""Figures of trees and maps show what was computed, aligned and labelled."""

from __future__ import annotations

import numpy as np
import pytest

from lens import figures
from lens.clustering.branch_support import BranchSupport, branch_support
from lens.clustering.map_stability import MapStability, TrustNull
from lens.clustering.maps import LayerMap, layer_map
from lens.clustering.reference_sets import ClusteredLayers, ClusterSettings, clustered_layers
from lens.clustering.tree_null import GroupNull, group_null
from lens.clustering.trees import cut_tree, layer_tree, tree_of_distances
from lens.errors import LensError
from lens.figures.routers.clustering import cut_height
from lens.layers.similarity import layer_similarity
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.tables.clustering import branches_csv, map_judgement_csv, silhouette_csv
from tests.lens.figures.figure_reading import first, mark, rows, selection, title_text, views

LABELS = [f"L{i}" for i in range(6)]


@pytest.fixture
def routers() -> RouterSet:
    return RouterSet(np.random.default_rng(0).normal(size=(6, 32, 4)).astype(np.float32))


@pytest.fixture
def gram(routers):
    return router_gram(routers)


def test_dendrogram_draws_three_lines_a_merge_up_to_its_height(gram):
    tree = layer_tree(gram)
    lines = rows(first(figures.layer_dendrogram(tree, LABELS), "rule"))
    bars = sorted(line["y0"] for line in lines if line["y0"] == line["y1"])
    assert len(lines) == 3 * 5
    assert bars == pytest.approx(sorted(tree.linkage[:, 2]), rel=1e-5)


def test_a_tree_of_layers_far_from_each_other_is_drawn_from_just_below_its_merges(gram):
    tree = layer_tree(gram)
    chart = figures.layer_dendrogram(tree, LABELS)
    heights = tree.linkage[:, 2]
    lines = first(chart, "rule")
    foot = lines["encoding"]["y"]["scale"]["domainMin"]
    assert 0.5 * heights.min() < foot < heights.min()
    assert min(line["y0"] for line in rows(lines)) == pytest.approx(foot, rel=1e-5)
    assert "does not start at 0" in title_text(chart)


def test_a_tree_with_near_layers_is_drawn_from_zero():
    tree = tree_of_distances(np.array([[0, 0.1, 1.0], [0.1, 0, 0.9], [1.0, 0.9, 0]]), "average")
    chart = figures.layer_dendrogram(tree, LABELS[:3])
    assert first(chart, "rule")["encoding"]["y"]["scale"]["domainMin"] == 0
    assert "does not start at 0" not in title_text(chart)


@pytest.mark.parametrize("clusters", [1, 2, 4, 6])
def test_the_cut_rule_crosses_as_many_branches_as_there_are_groups(gram, clusters):
    tree = layer_tree(gram)
    height = cut_height(tree, clusters)
    assert np.sum(tree.linkage[:, 2] > height) == clusters - 1
    assert len(set(cut_tree(tree, clusters))) == clusters
    rules = [
        v
        for v in views(figures.layer_dendrogram(tree, LABELS, clusters).to_dict())
        if mark(v) == "rule"
    ]
    assert rows(rules[-1]) == [{"y0": pytest.approx(height, rel=1e-5)}]


def test_a_cut_into_more_groups_than_layers_is_refused(gram):
    with pytest.raises(LensError, match="from 1 to 6"):
        figures.layer_dendrogram(layer_tree(gram), LABELS, 7)


def test_tree_and_heatmap_have_the_same_order_and_width(gram):
    tree = layer_tree(gram)
    chart = figures.dendrogram_with_heatmap(tree, layer_similarity(gram), LABELS, "cka")
    spec = chart.to_dict()
    above, below = spec["vconcat"]
    n_layers = len(LABELS)
    assert above["width"] == below["width"]["step"] * n_layers
    place = views(above, spec["datasets"])[0]["encoding"]["x"]["scale"]["domain"]
    assert place == [-0.5, n_layers - 0.5]
    shown = views(below, spec["datasets"])[0]["encoding"]["x"]["scale"]["domain"]
    assert shown == [LABELS[row] for row in tree.order]
    assert selection(chart)["fields"] == ["la", "lb"]


def test_map_holds_every_layer_at_its_place_with_equal_spans(routers, gram):
    found = layer_map(routers, gram, "mds")
    chart = figures.layer_scatter(found, LABELS)
    points = first(chart, "circle")
    shown = np.array([[p["x"], p["y"]] for p in rows(points)])
    assert shown == pytest.approx(found.points, rel=1e-4, abs=1e-6)
    spans = [np.ptp(points["encoding"][axis]["scale"]["domain"]) for axis in "xy"]
    assert spans[0] == pytest.approx(spans[1])
    assert selection(chart)["fields"] == ["layer"]
    text = title_text(chart)
    assert "classical MDS" in text
    assert f"trustworthiness {found.trustworthiness:.2f}" in text


def test_map_states_seed_and_perplexity():
    settings = {"perplexity": 1.5, "seed": 42}
    found = LayerMap(np.zeros((6, 2)), None, 0.9, "tsne", settings)
    assert "perplexity 1.5, seed 42" in title_text(figures.layer_scatter(found, LABELS))


def test_groups_on_a_map_have_a_digit_beside_their_colour():
    found = LayerMap(np.random.default_rng(0).normal(size=(6, 2)), None, 0.9, "umap", {})
    clusters = np.array([1, 1, 2, 2, 3, 3])
    chart = figures.layer_scatter(found, LABELS, clusters=clusters)
    points = first(chart, "circle")
    assert [p["cluster"] for p in rows(points)] == clusters.tolist()
    assert points["encoding"]["color"]["scale"]["domain"] == [1, 2, 3]
    assert first(chart, "text")["encoding"]["text"]["field"] == "cluster"


def test_explained_variance_shows_shares_and_their_running_sum():
    found = LayerMap(np.zeros((6, 2)), np.array([0.5, 0.25]), 0.9, "pca", {})
    bars = rows(first(figures.explained_variance(found), "bar"))
    assert [b["share"] for b in bars] == [0.5, 0.25]
    assert [b["sum"] for b in bars] == [0.5, 0.75]


def test_a_map_without_axes_of_variance_says_so():
    found = LayerMap(np.zeros((6, 2)), None, 0.9, "umap", {})
    with pytest.raises(LensError, match="UMAP map has no axes of variance"):
        figures.explained_variance(found)


def layers_of(routers: RouterSet) -> ClusteredLayers:
    return clustered_layers(routers, ClusterSettings(reference="unrelated"))


TRUST = TrustNull(0.9, 0.7, 0.6, 0.8, 0.5, 0.01, 99, 3, "shared")
STABLE = MapStability((4, 5, 6), 0.1, 0.9, 0.75, 0.25, 2, 0.005, 199)


@pytest.fixture
def support(routers, gram) -> BranchSupport:
    return branch_support(layers_of(routers), layer_tree(gram), draws=10)


def with_support(support: BranchSupport, values: list[float], level: float) -> BranchSupport:
    """The same branches with other support."""
    shares = np.array([*values, np.nan])
    return BranchSupport(support.members, shares, np.array([level]), level, 10, 1, 0, "shared")


def test_branches_carry_their_support_as_colour_and_number(gram, support):
    tree = layer_tree(gram)
    shown = with_support(support, [0.97, 0.2, 0.6, 0.3], 0.4)
    chart = figures.layer_dendrogram(tree, LABELS, support=shown)
    lines = rows(first(chart, "rule"))
    bars = [line for line in lines if line["y0"] == line["y1"]]
    kinds = {line["share"]: line["branch"] for line in bars}
    assert kinds["97\u00a0%"] == "95\u00a0% or more"
    assert kinds["60\u00a0%"] == "beyond the directions that all layers share"
    assert kinds["20\u00a0%"] == kinds["–"] == "40\u00a0% or less"
    # The stem above a branch has its colour too; leaves have none.
    stems = [line for line in lines if line["y0"] != line["y1"] and line["share"] == "60\u00a0%"]
    assert len(stems) == 1
    numbers = [row["text"] for row in rows(first(chart, "text"))]
    assert set(numbers) <= {"97", "60"} and numbers
    assert "branches of layers mixed from all layers have 40\u00a0% or less" in title_text(chart)
    assert "2 of 4 branches have more support" in figures.alt_text(chart)


def test_numbers_of_branches_do_not_lie_on_each_other():
    near = np.full((40, 40), 9.0)  # narrow steps: the lowest two merges are 6 pixels apart
    near[:3, :3], near[0, 1], near[1, 0] = 1.001, 1, 1
    np.fill_diagonal(near, 0)
    tree = tree_of_distances(near, "average")
    shares = np.array([0.9, 0.8, *[0.05] * 36, np.nan])
    one = BranchSupport(np.zeros((39, 40), bool), shares, np.array([0.1]), 0.1, 10, 1, 0, "shared")
    labels = [f"L{i}" for i in range(40)]
    chart = figures.layer_dendrogram(tree, labels, support=one)
    assert [row["text"] for row in rows(first(chart, "text"))] == ["80"]


def test_a_tree_without_support_has_neither_colours_nor_numbers(gram):
    chart = figures.layer_dendrogram(layer_tree(gram), LABELS)
    assert "color" not in first(chart, "rule")["encoding"]
    assert "Numbers" not in title_text(chart)


def test_silhouettes_stand_beside_their_band_and_the_cut_is_marked(routers, gram):
    null = group_null(layers_of(routers), layer_tree(gram), draws=19)
    chart = figures.silhouette_by_groups(null, 4)
    points = rows(first(chart, "point"))
    assert [p["groups"] for p in points] == [2, 3, 4, 5]
    assert [p["silhouette"] for p in points] == pytest.approx(null.silhouette, rel=1e-5)
    assert [p["high"] for p in points] == pytest.approx(null.high, rel=1e-5)
    assert all(
        (p["finding"] == "beyond unrelated directions") == (p["p_any"] <= 0.05) for p in points
    )
    assert selection(chart)["fields"] == ["groups"]
    text = title_text(chart)
    assert (
        "19 sets of unrelated layers (seed 0)" in text and "orange: the cut into 4 groups" in text
    )
    assert "turned at random" in figures.alt_text(chart)


def test_one_number_of_groups_still_shows_its_band(routers):
    few = layers_of(RouterSet(routers.routers[:3]))
    null = group_null(few, layer_tree(few.gram), draws=19)
    chart = figures.silhouette_by_groups(null, 3)
    assert rows(first(chart, "rule"))[0]["groups"] == 2
    assert "orange" not in title_text(chart)


def test_two_layers_have_no_silhouette(routers):
    two = layers_of(RouterSet(routers.routers[:2]))
    null: GroupNull = group_null(two, layer_tree(two.gram), draws=19)
    with pytest.raises(LensError, match="expected 3 layers or more"):
        figures.silhouette_by_groups(null)


def test_a_map_states_what_chance_gives_for_trust_and_seeds(routers, gram):
    found = layer_map(routers, gram, "mds")
    plain = title_text(figures.layer_scatter(found, LABELS))
    assert "points at random: 0.5" in plain and "maps of any layers more" in plain
    judged = title_text(figures.layer_scatter(found, LABELS, trust=TRUST, stability=STABLE))
    assert (
        "maps of layers mixed from all layers 0.60 to 0.80, mean 0.70, in 99 draws; p ≤ 0.01"
        in judged
    )
    assert "seeds 4, 5, 6 share 75\u00a0% of the 2 nearest neighbours (chance 25\u00a0%)" in judged
    assert "disparity 0.10 (0: the same map, chance 0.90)" in judged


def test_tables_hold_every_number_with_its_null(routers, gram, support):
    tree = layer_tree(gram)
    null = group_null(layers_of(routers), tree, draws=19)
    silhouettes = csv_text.read_csv(silhouette_csv(null))
    assert len(silhouettes) == 5 and [row[0] for row in silhouettes[1:]] == list("2345")
    assert float(silhouettes[2][1]) == pytest.approx(null.silhouette[1])
    branches = csv_text.read_csv(branches_csv(tree, LABELS, support))
    assert len(branches) == 6 and branches[-1][-1] == " ".join(LABELS)
    assert float(branches[1][5]) == pytest.approx(support.support[0])
    assert branches[-1][5] == ""  # of all layers: in every tree
    assert len(csv_text.read_csv(branches_csv(tree, LABELS))[0]) == 5
    judged = map_judgement_csv([("tsne", TRUST, STABLE), ("mds", TRUST, None)]).splitlines()[-2:]
    assert judged[0].startswith(
        "tsne,0.9,0.7,0.6,0.8,0.5,0.01,99,3,layers mixed from all layers,0.1,0.9,0.75,0.25,4 5 6"
    )
    assert judged[1].endswith(",,,,,")


def test_names_on_a_map_of_many_layers_do_not_cover_each_other():
    points = np.random.default_rng(1).normal(size=(48, 2)) ** 3  # most of them close together
    labels = [f"L{i}" for i in range(48)]
    chart = figures.layer_scatter(LayerMap(points, None, 1.0, "mds", {}), labels)
    names = first(chart, "text")
    low, high = names["encoding"]["x"]["scale"]["domain"]
    kept = [row for row in rows(names) if row["label"]]
    assert {"L0", "L47"} <= {row["label"] for row in kept} and len(kept) >= 8
    for i, a in enumerate(kept):
        for b in kept[:i]:
            across, down = (abs(a[k] - b[k]) * 440 / (high - low) for k in "xy")
            assert across > 12 or down > 12, (a["label"], b["label"])


def test_a_number_that_the_line_of_the_cut_would_go_through_stands_on_it():
    distances = np.ones((4, 4)) - np.eye(4)
    distances[:2, :2] *= 0.5
    distances[:2, 2] = distances[2, :2] = 0.505
    tree = tree_of_distances(distances, "average")
    members = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], bool)
    shares, drawn = np.array([0.9, 0.3, np.nan]), np.array([0.4])
    shown = BranchSupport(members, shares, drawn, 0.4, 10, 1, 0, "shared")
    chart = figures.layer_dendrogram(tree, LABELS[:4], cut=3, support=shown)
    numbers = rows(first(chart, "text"))
    assert [row["text"] for row in numbers] == ["90"]
    assert cut_height(tree, 3) == pytest.approx(0.5025)
    assert numbers[0]["y0"] == pytest.approx(0.5025)
