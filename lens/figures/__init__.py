"""Altair figures: arrays in, charts out; no Streamlit and no analysis.

Every chart carries its data, a title that states units and chance level, and a
description for readers who do not see it (`alt_text`). Where a click means
something, the chart has a selection named "pick".
"""

from lens.figures.circuit import circuit_rows, route_circuit
from lens.figures.claims import layer_claims_chart
from lens.figures.export import figure_png, figure_svg, written
from lens.figures.features_account import account_waterfall
from lens.figures.on_page import on_page
from lens.figures.routers.chains import expert_chains, expert_cosines_against_chance
from lens.figures.routers.clustering import dendrogram_with_heatmap, layer_dendrogram
from lens.figures.routers.effect import effect_on_chance
from lens.figures.routers.expert_pairs import (
    expert_correlation_matrix,
    expert_similarity_across_layers,
)
from lens.figures.routers.experts import (
    breadth_against_load,
    expert_map,
    expert_variance_analysis,
)
from lens.figures.routers.groups import silhouette_by_groups
from lens.figures.routers.layer_null import adjacent_against_chance, layer_null_heatmap
from lens.figures.routers.layers import (
    layer_change,
    layer_similarity_heatmap,
    pair_matrix,
    value_against_null,
)
from lens.figures.routers.maps import explained_variance, layer_scatter
from lens.figures.routers.model_pairs import (
    experts_changed,
    layers_across,
    layers_changed,
    profiles_over_depth,
)
from lens.figures.theme import (
    OKABE_ITO,
    alt_text,
    chart_title,
    expert_colour,
    expert_names,
    fitted_domain,
    look,
)
from lens.figures.token_grid import token_window, visible
from lens.figures.traces.information import chance_lines, predicted_load
from lens.figures.traces.labels import label_lift, label_load
from lens.figures.traces.margins import margin_histogram, margin_quantiles
from lens.figures.traces.router_geometry import logit_lens_by_layer, push_ticks
from lens.figures.traces.token_maps import difference_map, token_layer_map
from lens.figures.traces.tokens import StripColours, candidate_bars, cell_probabilities, token_strip
from lens.figures.traces.traffic import (
    coselection_matrix,
    load_by_layer,
    routing_paths,
)

__all__ = [
    "OKABE_ITO",
    "account_waterfall",
    "adjacent_against_chance",
    "StripColours",
    "alt_text",
    "breadth_against_load",
    "candidate_bars",
    "cell_probabilities",
    "chance_lines",
    "chart_title",
    "circuit_rows",
    "coselection_matrix",
    "dendrogram_with_heatmap",
    "difference_map",
    "effect_on_chance",
    "expert_chains",
    "expert_colour",
    "expert_correlation_matrix",
    "expert_cosines_against_chance",
    "expert_map",
    "expert_names",
    "expert_similarity_across_layers",
    "expert_variance_analysis",
    "experts_changed",
    "explained_variance",
    "figure_png",
    "figure_svg",
    "fitted_domain",
    "label_lift",
    "label_load",
    "layer_change",
    "layer_claims_chart",
    "layer_dendrogram",
    "layer_null_heatmap",
    "layer_scatter",
    "layer_similarity_heatmap",
    "layers_across",
    "layers_changed",
    "load_by_layer",
    "look",
    "logit_lens_by_layer",
    "margin_histogram",
    "margin_quantiles",
    "on_page",
    "pair_matrix",
    "predicted_load",
    "profiles_over_depth",
    "push_ticks",
    "route_circuit",
    "routing_paths",
    "silhouette_by_groups",
    "token_layer_map",
    "token_strip",
    "token_window",
    "value_against_null",
    "visible",
    "written",
]
