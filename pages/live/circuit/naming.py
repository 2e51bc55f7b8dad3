"""Names of the nodes of a circuit, as figures and tables write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lens import figures
from lens.errors import LensError
from lens.escaping import plain
from lens.features.card import feature_name
from lens.features.circuit import FEATURE, FIXED, GROUP, MISSED, OTHERS, TARGET, WORD, Circuit
from lens.features.store import FeatureStore
from lens.words import counted

if TYPE_CHECKING:
    from grok.dictionaries.attribution import RouteGraph, Target
    from grok.dictionaries.kinds.design import Design

Names = Mapping[str, tuple[str, str]]
USUAL = 2  # words of other text that stand for a feature


def choice_name(target: Target) -> str:
    """What a target is the logit of: "E3 − E5", or "E3" alone."""
    name = f"E{target.index}"
    return name if target.other is None else f"{name} − E{target.other}"


def feature_names(design: Design, group: int, feature: int) -> tuple[str, str]:
    """A feature's number, and its name on other pages: "F17" and "L4·F17"."""
    layer = design.sources[design.groups[group].reads[0]].layer
    return feature_name(-1, feature), feature_name(layer if len(design.groups) > 1 else -1, feature)


def names_of(
    circuit: Circuit,
    graph: RouteGraph,
    target: Target,
    design: Design,
    store: FeatureStore | None,
    given: Mapping[tuple[int, int], str] | None = None,
) -> Names:
    """Short and long names of all nodes of a drawing, plain text.

    Args:
        circuit: the drawing.
        graph: that it is of.
        target: of the graph.
        design: of the dictionary.
        store: database of its features, if there is one.
        given: names that the person gave to features, by group and number.
    """
    firsts = {
        key: int(own[0])
        for key, kind, own in zip(circuit.keys, circuit.kinds, circuit.members, strict=True)
        if kind == FEATURE
    }
    places = {key: (int(graph.groups[i]), int(graph.features[i])) for key, i in firsts.items()}
    usual: Mapping[tuple[int, int], tuple[str, ...]] = {}
    if store is not None:
        try:
            usual = store.words_of(places.values())
        except LensError:
            usual = {}
    found: dict[str, tuple[str, str]] = {}
    for node, (key, kind) in enumerate(zip(circuit.keys, circuit.kinds, strict=True)):
        own, layer = circuit.members[node], int(circuit.layers[node])
        if kind == FEATURE:
            short, name = feature_names(design, *places[key])
            own_name = (given or {}).get(places[key])
            name = f"{name} “{plain(own_name)}”" if own_name else name
            words = ", ".join(f"“{figures.visible(w)}”" for w in usual.get(places[key], ())[:USUAL])
            at = _at(graph, [int(graph.tokens[i]) for i in own])
            found[key] = short, f"{name} at {at}" + (f", usually on {words}" if words else "")
        elif kind == GROUP:
            name = key.removeprefix(f"{GROUP} ")
            found[key] = name[:12], f"{name} ({counted(len(own), 'feature')})"
        else:
            found[key] = {
                TARGET: (choice_name(target), f"L{layer}·{choice_name(target)}"),
                WORD: ("", f"the word {_at(graph, [int(circuit.tokens[node])])}"),
                MISSED: ("", f"missed in L{layer}"),
                OTHERS: (str(len(own)), f"{counted(len(own), 'other feature')} of L{layer}"),
                FIXED: ("", "biases"),
            }[kind]
    return found


def _at(graph: RouteGraph, tokens: list[int]) -> str:
    """Where something is, in words: "“the” (12)"."""
    if len(tokens) > 1:
        return counted(len(tokens), "token")
    return f"“{figures.visible(str(graph.pieces[tokens[0]]))}” ({tokens[0]})"
