"""What the model loses when one layer's values are replaced, all others being its own.

With all layers replaced at once errors add up, and what stands in a later layer reads what earlier
ones spoiled. One at a time they do not: that says how good a layer's dictionary is by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from grok.dictionaries.evaluation.curve import Subject
from grok.dictionaries.evaluation.methods import by_target, whole
from grok.dictionaries.evaluation.replacing import ablations, on_best_axes, replacement
from grok.dictionaries.evaluation.spliced import Sums, compared
from grok.interventions.edits import Edits

SMALLEST = 0.01  # nats: of an ablation that costs less, a share says nothing
MEASURES = ("delta_ce", "kl", "same_next")


def alone(subject: Subject, tokens: int, l0: Sequence[float]) -> dict[str, Any]:
    """Loss and next tokens with each layer replaced by itself; nothing for a crosscoder.

    Args:
        subject: the dictionary.
        tokens: held-out tokens, at most.
        l0: active features of a token by group, as many as principal axes are left.

    Returns:
        layers; tokens; ce, the plain loss in nats; and by method (dictionary, pca_best, zero, mean)
        delta_ce, kl and same_next by layer, and of the first two methods the share of what each
        ablation costs that they make good, as ce_recovered_zero and so on, None where it costs
        less than 0.01 nats.
    """
    design = subject.dictionary.design
    if design.kind == "crosscoder":
        return {}
    windows, _ = subject.sequences(tokens)
    kept = whole(by_target(design, np.asarray(l0)))
    layers = [int(layer) for layer in design.layers]
    runs = {
        f"{method} {layer}": edits
        for layer in layers
        for method, edits in _of_layer(subject, layer, kept).items()
    }
    sums = compared(subject.model, windows, runs)
    methods: dict[str, dict[str, list[Any]]] = {}
    for name in ("dictionary", "pca_best", "zero", "mean"):
        numbers = [sums[f"{name} {layer}"].numbers() for layer in layers]
        methods[name] = {measure: [one[measure] for one in numbers] for measure in MEASURES}
    for name in ("dictionary", "pca_best"):
        for ablated in ("zero", "mean"):
            for measure, key in (("delta_ce", "ce"), ("kl", "kl")):
                cost = zip(methods[name][measure], methods[ablated][measure], strict=True)
                methods[name][f"{key}_recovered_{ablated}"] = [_recovered(*pair) for pair in cost]
    plain: Sums = next(iter(sums.values()))
    return {
        "layers": layers,
        "tokens": plain.n,
        "ce": plain.loss / plain.n_next,
        "methods": methods,
    }


def _of_layer(subject: Subject, layer: int, kept: np.ndarray) -> dict[str, Edits]:
    design, fitted = subject.dictionary.design, subject.fitted
    at = [i for i, point in enumerate(design.targets) if point.layer == layer]
    points = [design.targets[i] for i in at]
    return {
        "dictionary": replacement(subject.dictionary, layers=[layer]),
        "pca_best": on_best_axes(points, fitted.mean[at], fitted.axes[at], kept[at]),
        **ablations(points, fitted.mean[at]),
    }


def _recovered(own: float, ablated: float) -> float | None:
    return 1 - own / ablated if ablated >= SMALLEST else None
