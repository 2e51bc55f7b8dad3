"""Two layers: expert by expert, and beside what their reference gives."""

from __future__ import annotations

import numpy as np
import streamlit as st

from lens import cached, figures
from lens.layers.pair_null import LayerNull, drawn_pairs, place_among_pairs
from lens.layers.references import BEATEN, REFERENCE_LABELS
from lens.layers.similarity import LAYER_METRICS, LayerPair
from lens.routers.router_set import RouterSet
from lens.stats.chance import chance_of, percentile
from lens.storage import csv_text
from lens.tables import routers as router_tables
from lens.words import begun, fixed, p_value_text, percent
from pages.shell import finding_block, layout, links
from pages.shell.null_settings import NullSettings

LEVEL = 0.05  # false discovery rate
MOST_ANGLES = 32


def show(
    routers: RouterSet,
    view: str,
    metric: str,
    null: LayerNull,
    settings: NullSettings,
    layer: int,
    other: int,
) -> None:
    """Two layers expert by expert, and where their similarity lies among chance."""
    name = LAYER_METRICS[metric].label
    value = float(cached.layer_similarity(routers, metric, view)[layer, other])
    pair = cached.layer_pair(routers, layer, other, view)
    labels_a, labels_b = (
        figures.expert_names(routers.label(row), routers.n_experts) for row in (layer, other)
    )
    with st.spinner("Drawing the coordinates anew …"):
        interval = cached.pair_interval(
            routers, layer, other, metric, view, settings.draws, settings.seed
        )
    place = place_among_pairs(cached.layer_similarity(routers, metric, view))[layer, other]
    among = ""
    if np.isfinite(place):
        among = f", more alike than {percent(place)} of the other pairs"
        among = ", the most alike of all pairs" if place == 1 else among
    st.markdown(
        f"**{routers.label(layer)} with {routers.label(other)}**: {name} {fixed(value, 3)}{among}."
    )
    beyond = bool(null.q[layer, other] <= LEVEL)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        finding_block.verdict_chip("found" if beyond else "not told from chance")
        with finding_block.behind():
            st.markdown(
                f"{name} {fixed(value, 4)}; with the coordinates drawn anew "
                f"{fixed(interval.low, 3)} to "
                f"{fixed(interval.high, 3)} in 95 % (corrected for what resampling adds, so it may "
                f"lie beside the value). {verdict(null, layer, other)}"
            )
    for tab, container in links.tabs("pair", {"experts": "Experts", "angles": "Angles and chance"}):
        with container:
            if tab == "experts":
                matched = cached.chance_level("matched_cosine", routers, view)
                layout.figure(
                    figures.pair_matrix(pair, labels_a, labels_b, chance=matched),
                    "pair_matrix",
                    routers,
                    scale=0.85,
                    stretch=True,
                    words=(routers.label(layer), routers.label(other), view),
                    table=lambda: router_tables.pair_csv(pair, labels_a, labels_b),
                )
            else:
                pair_in_chance(routers, view, metric, null, settings, pair)


def verdict(null: LayerNull, layer: int, other: int) -> str:
    """Whether a pair beats its reference, in words."""
    z, p, q = (matrix[layer, other] for matrix in (null.z, null.p, null.q))
    said = f"alike more than {BEATEN[null.reference]}"
    if q > LEVEL:
        said = f"not distinguishable from {REFERENCE_LABELS[null.reference]}"
    left = ""
    if null.directions:
        left = f"what is left of them {fixed(null.similarity[layer, other], 3)}, "
    return f"{begun(said)}: {left}z {fixed(z, 1)}, p {p_value_text(p)}, q {p_value_text(q)}."


def samples_of_pair(
    routers: RouterSet,
    view: str,
    metric: str,
    null: LayerNull,
    settings: NullSettings,
    pair: LayerPair,
) -> tuple[np.ndarray, str]:
    """What the null gives for one pair, and what was drawn, in words."""
    drawn = (settings.draws, settings.seed)
    if null.reference != "shared":
        samples = cached.null_of_pair(routers, pair.a, pair.b, metric, view, *drawn)
        return samples, "the two layers turned at random"
    if null.sets is None:
        samples = cached.mixed_pair(routers, pair.a, pair.b, null.directions, *drawn)
        return samples, "the experts of the two layers mixed"
    return drawn_pairs(null), "layers mixed from all layers"


def pair_in_chance(
    routers: RouterSet,
    view: str,
    metric: str,
    null: LayerNull,
    settings: NullSettings,
    pair: LayerPair,
) -> None:
    """A pair's similarity among those that its reference gives, and its principal angles."""
    samples, drawn = samples_of_pair(routers, view, metric, null, settings, pair)
    value = float(null.similarity[pair.a, pair.b])
    chance = chance_of(samples, settings.seed, drawn)
    layout.figure(
        figures.value_against_null(
            value, chance, name=LAYER_METRICS[metric].label, samples=samples
        ),
        "null_place",
        routers,
        stretch=True,
        words=(metric, routers.label(pair.a), routers.label(pair.b)),
        table=lambda: csv_text.table_csv({f"similarity, {drawn}": samples}),
    )
    rank = percentile(value, samples)
    st.caption(f"The value lies above {fixed(rank, 1)} % of {len(samples):,} draws.")
    st.markdown("Cosines of the principal angles, largest first")
    shown = pair.angles[:MOST_ANGLES]
    st.code("  ".join(f"{fixed(angle, 3)}" for angle in shown), language=None, wrap_lines=True)
    if len(shown) < len(pair.angles):
        st.caption(f"The {len(shown)} largest of {len(pair.angles)}.")
