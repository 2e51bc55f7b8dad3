"""Layers as points: the choice of a map, its settings, and what chance gives."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np
import streamlit as st

from lens import cached, figures
from lens.clustering.map_stability import MapStability, TrustNull
from lens.clustering.maps import MIN_LAYERS, SEEDED, LayerMap, MapSettings
from lens.clustering.reference_sets import DRAWN, ClusterSettings
from lens.clustering.tree_null import LEVEL
from lens.errors import LensError
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.tables import clustering as clustering_tables
from lens.tables import routers as router_tables
from lens.words import fixed, p_value_text, percent
from pages.access.messages import told
from pages.shell import downloads, layout, links
from pages.shell.deferred import Deferred
from pages.shell.picks import pick_layer
from pages.shell.session_keys import SessionKey, SessionValue
from pages.trees import chance as tree_chance

MAP_NAMES = {"mds": "MDS", "pca": "PCA (classic)", "umap": "UMAP", "tsne": "t-SNE"}
MAP_RUN = SessionValue[tuple[Hashable, ...]](SessionKey.MAP_RUN)
AXES = {"12": (0, 1), "13": (0, 2), "23": (1, 2)}


def map_in_words(trust: TrustNull, stability: MapStability | None) -> str:
    """Trustworthiness of a map beside maps of drawn sets, and agreement of seeds."""
    drawn = DRAWN[trust.reference]
    against = (
        f"trustworthiness {fixed(trust.value, 2)}, {trust.draws} maps of {drawn} "
        f"{fixed(trust.low, 2)} to {fixed(trust.high, 2)}, p {p_value_text(trust.p, trust.draws)}"
    )
    beyond = (
        f"**The map keeps more neighbours than maps of {drawn}**"
        if trust.p <= LEVEL
        else f"**As a map of neighbours it is not distinguishable from maps of {drawn}**"
    )
    text = f"{beyond}: {against}."
    if stability is not None:
        seeds = ", ".join(map(str, stability.seeds))
        text += (
            f" Maps of the seeds {seeds} share {percent(stability.overlap)} of the "
            f"{stability.neighbours} nearest neighbours (chance "
            f"{percent(stability.overlap_chance)}); their disparity is "
            f"{fixed(stability.disparity, 2)} (chance {fixed(stability.disparity_chance, 2)}, "
            f"p {p_value_text(stability.p, stability.draws)})."
        )
    return text


def own_settings(settings: MapSettings, method: str, n_layers: int) -> MapSettings:
    """The settings with those that t-SNE or UMAP has of its own."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        seed = links.number("seed", "Seed", 0, 9999, 42)
        if method == "tsne":
            limit = max((n_layers - 1) // 3, 1)
            perplexity = links.number("perplexity", "Perplexity", 1, limit, min(30, limit))
            return replace(settings, seed=seed, perplexity=perplexity)
        most = max(n_layers - 1, 2)
        neighbours = links.number("neighbours", "Neighbours", 2, most, min(15, most))
        min_dist = links.decimal("min_dist", "Least distance", 0.0, 1.0, 0.1)
        return replace(settings, seed=seed, neighbours=neighbours, min_dist=min_dist)


@dataclass(frozen=True)
class MapChoice:
    """A map of the layers.

    Attributes:
        method: its name in `MAP_NAMES`.
        axes: the dimensions that are drawn, a name in `AXES`.
        by_groups: whether groups colour the points, rather than depth.
        settings: metric, dimensions, and what the method has of its own.
    """

    method: str
    axes: str
    by_groups: bool
    settings: MapSettings


def controls(n_layers: int, metric: str) -> MapChoice:
    """The map, its dimensions, its colours, and the settings of its method."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        colour = links.segments(
            "colour", "Colour by", ["depth", "groups"], "depth", shown=str.capitalize
        )
        options = st.popover("Map", icon=":material/tune:")
    with options:
        method = links.segments("map", "Map", list(MAP_NAMES), "mds", shown=MAP_NAMES.__getitem__)
        axes = links.segments(
            "axes",
            "Dimensions",
            list(AXES),
            "12",
            shown={"12": "1 and 2", "13": "1 and 3", "23": "2 and 3"}.__getitem__,
            help="With the third dimension the map is computed in three.",
        )
    settings = MapSettings(metric=metric, dims=2 if axes == "12" else 3)
    if method in SEEDED and n_layers >= MIN_LAYERS:
        settings = own_settings(settings, method, n_layers)
    return MapChoice(method, axes, colour == "groups", settings)


def show(
    deferred: Deferred,
    routers: RouterSet,
    settings: ClusterSettings,
    clusters: np.ndarray,
    null_seed: int,
) -> None:
    """Layers as points, with the trustworthiness of the map beside that of drawn sets."""
    metric = settings.metric
    chosen = controls(routers.n_layers, metric)
    if routers.n_layers < MIN_LAYERS:
        st.info(f"A map needs at least {MIN_LAYERS} layers; this router set has fewer.")
        return
    found = computed(routers, chosen, settings)
    if found is None:
        return
    labels = layout.layer_labels(routers)
    layer = int(links.chosen("layer", 0))
    trust, stability = judged(deferred, routers, chosen, settings, null_seed)
    layout.figure(
        figures.layer_scatter(
            found,
            labels,
            clusters=clusters if chosen.by_groups else None,
            axes=AXES[chosen.axes],
            picked=layer if layer < routers.n_layers else None,
            trust=trust,
            stability=stability,
        ),
        f"layer_{chosen.method}",
        routers,
        stretch=True,
        words=(metric, settings.view),
        table=lambda: router_tables.layer_map_csv(found, labels),
        on_pick=pick_layer,
    )
    if trust is not None:
        st.caption(map_in_words(trust, stability))
        downloads.row(
            "map_judgement",
            downloads.file_stem("map_judgement", routers.sha256, chosen.method, metric),
            table=lambda: clustering_tables.map_judgement_csv([(chosen.method, trust, stability)]),
        )
    if found.explained is not None:
        with st.expander("Variance explained"):
            variance(routers, found, found.explained, (chosen.method, metric))


def computed(routers: RouterSet, chosen: MapChoice, settings: ClusterSettings) -> LayerMap | None:
    """The map; None where its button was not pressed, or after saying why there is none."""
    name = MAP_NAMES[chosen.method]
    if chosen.method in SEEDED:
        run = (routers.key, settings, chosen.method, chosen.settings)
        if st.button(f"Run {name}", type="primary", icon=":material/play_arrow:"):
            MAP_RUN.set(run)
        if MAP_RUN.get() != run:
            st.caption("The first run takes some seconds; the rest of the page stays as it is.")
            return None
    try:
        with st.spinner(f"Computing {name} …", show_time=True):
            return cached.layer_map(routers, chosen.method, chosen.settings, settings)
    except LensError as error:
        st.info(told(error))
        return None


def judged(
    deferred: Deferred,
    routers: RouterSet,
    chosen: MapChoice,
    settings: ClusterSettings,
    null_seed: int,
) -> tuple[TrustNull | None, MapStability | None]:
    """Trustworthiness beside that of drawn sets, and stability over seeds; None until made."""
    method, own = chosen.method, chosen.settings
    key = (routers.key, settings, method, own)
    trust = stability = None
    if method != "pca" or routers.routers.size <= tree_chance.MOST_WEIGHTS:
        trust = deferred.get(
            ("trust", *key, null_seed),
            lambda: cached.trust_null(routers, method, own, settings, null_seed),
        )
    if method in SEEDED:
        stability = deferred.get(
            ("stability", *key),
            lambda: cached.layer_map_stability(routers, method, own, settings),
        )
    return trust, stability


def variance(
    routers: RouterSet, found: LayerMap, explained: np.ndarray, words: tuple[str, ...]
) -> None:
    """Shares of variance of the map's dimensions."""
    layout.figure(
        figures.explained_variance(found),
        "explained_variance",
        routers,
        words=words,
        table=lambda: csv_text.table_csv(
            {"dimension": np.arange(1, len(explained) + 1), "share of variance": explained}
        ),
    )
