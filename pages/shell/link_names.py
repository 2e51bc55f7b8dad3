"""Names of choices in the address, each with what it chooses; a link keeps its meaning by them.

A new choice gets its line here first. Where two pages use one name for two things, what one of
them puts into the address means nothing to the other, which then shows its default.
"""

from __future__ import annotations

from collections.abc import Mapping

PAGES: Mapping[str, tuple[str, str]] = {
    "overview": ("Overview", ":material/home:"),
    "live_routing": ("Live routing", ":material/alt_route:"),
    "experts": ("Experts", ":material/hub:"),
    "layers": ("Layers", ":material/grid_on:"),
    "clustering": ("Clustering", ":material/account_tree:"),
    "features": ("Features", ":material/scatter_plot:"),
}
"""Title and icon of each page, in their order; the first one has no name in its address."""


def page_file(name: str) -> str:
    """The file of a page, by its name or its address, as Streamlit wants it."""
    return f"pages/{name.strip('/') or 'overview'}.py"


NAMES: Mapping[str, str] = {
    # every page
    "source": "where the routers come from",
    "file": "name of the uploaded file that the routers come from",
    "kept": "id of what this tab of a browser holds; in no link",
    "view": "canonical or raw routers",
    "draws": "draws of every null",
    "null_seed": "seed of the nulls",
    "layer": "the layer, by the model's own number",
    "expert": "the expert, by its number in the layer",
    # Overview
    "beside": "second router set",
    "differs_in": "tab of two router sets",
    # Layers and Clustering
    "metric": "similarity of layers",
    "other": "the layer to compare with; in Compare, the second trace",
    "order": "order of the layers in the heatmap",
    "colours": "colours of the heatmap",
    "reference": "what layers, trees and maps are set against",
    "directions": "directions that all layers share, taken away before",
    "permutations": "draws with shuffled coordinates",
    "pair": "tab of the pair of layers; in Compare, the pair of tokens",
    "next": "tab of neighbouring layers",
    "intervals": "whether neighbours are drawn with their intervals",
    "linkage": "tree",
    "clusters": "number of groups",
    "sets": "unrelated sets that are clustered",
    "trees": "resampled trees",
    "map": "map of the layers",
    "axes": "dimensions of the map that are drawn",
    "colour": "colours of the map's points",
    "seed": "seed of the map",
    "perplexity": "perplexity of t-SNE",
    "neighbours": "neighbours of UMAP",
    "min_dist": "least distance of UMAP",
    # Experts
    "measure": "measure of the experts; in What if, measure of a sweep",
    "tab": "tab of the page",
    "within": "comparison within a layer; in Many prompts, what words are shuffled over",
    "tokens": "tokens listed for an expert",
    "listening": "map of what experts listen to",
    "vocab": "token id",
    "reading": "what the map of one token shows",
    # Features
    "dictionary": "dictionary that the features are of",
    "find": "what features are searched by",
    "by": "what features of an expert are ranked by",
    "of_layer": "layer whose features are listed",
    "sort": "order of the features",
    "text_order": "order of the features of a text of one's own",
    "feature": "the feature, as its group and number",
    "about": "tab of a feature",
    # Live routing
    "mode": "mode of the page",
    "model": "model that runs prompts",
    "token": "token, by its position",
    "example": "example of the mode, which a link runs",
    "text": "id of a text that was shared, which a link runs",
    "what": "what the map of a trace shows",
    "part": "tab of a trace",
    "dtype": "dtype of Generate",
    "numbers": "dtype of the other modes",
    # Compare
    "sides": "kind of comparison",
    "one": "the first trace",
    "change": "kind of change",
    "change_layer": "layer of the change",
    "warmth": "temperature of the routers",
    "block": "neighbouring tokens that count as one observation",
    "differs": "what the map of two runs shows",
    "differences": "tab of the tests",
    # What if
    "question": "question of What if",
    "action": "what is done to an expert",
    "site": "where a value is put in",
    "regained": "measure of a patch",
    # Generate
    "new_tokens": "number of new tokens",
    "temperature": "temperature of the sampling",
    "top_p": "probability of the nucleus",
    "sampling_seed": "seed of the sampling",
    # Many prompts
    "many_source": "prompts run here, or saved traces",
    "many": "tab of saved traces",
    "run": "id of a run",
    "seen": "tab of a run",
    "first_tokens": "first tokens of each prompt that are left out",
}
# Written into every link, and read by no widget.
OF_EVERY_LINK = ("data", "version")
# In the address, and in no link that is handed on.
OF_NO_LINK = ("kept",)
