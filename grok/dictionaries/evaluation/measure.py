"""All measures of a dictionary on held-out text, with its controls on the same tokens.

Axes: M sites written, B tokens, G groups, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from grok.dictionaries.evaluation.alone import alone
from grok.dictionaries.evaluation.controls import (
    Controls,
    Fitted,
    Fitting,
    Means,
    Shuffled,
    at_level,
    kept_keys,
    pair_keys,
)
from grok.dictionaries.evaluation.curve import Subject, curve
from grok.dictionaries.evaluation.labels.labelled import expert_points, labelled
from grok.dictionaries.evaluation.labels.probes import probed
from grok.dictionaries.evaluation.labels.specificity import specificity
from grok.dictionaries.evaluation.levels import at_l0
from grok.dictionaries.evaluation.methods import by_target
from grok.dictionaries.evaluation.standing_in import standing_in
from grok.dictionaries.evaluation.sums import (
    Activity,
    Reconstruction,
    mean_active,
    nearest_cosines,
    partner_cosines,
)
from grok.dictionaries.evaluation.tokens import ids, parts, spread
from grok.dictionaries.kinds.dictionary import Dictionary
from grok.dictionaries.kinds.inference import apply
from grok.dictionaries.training.windows import Windows
from grok.errors import GrokError

if TYPE_CHECKING:
    from grok.runner.model import Model

DUPLICATE, PARTNER = 0.9, 0.7
LOWEST_DENSITIES = "10^-6 to 10^0.5 in steps of 10^0.5"


class Plan(NamedTuple):
    """How much is measured, in tokens: of a batch, of training text for the controls, of held-out
    text that is reconstructed, of it at several numbers of active features, of it through changed
    models (once, and at those numbers), and with labels; 0 of one of the last leaves it out."""

    batch: int = 2048
    fitted: int = 49_152
    held_out: int = 49_152
    curve: int = 8192
    spliced: int = 8192
    spliced_curve: int = 4096
    labelled: int = 8192


class Control(NamedTuple):
    """Another dictionary to stand beside; model: that it is for, where it is another one."""

    dictionary: Dictionary
    model: Model | None = None


def stability(dictionary: Dictionary, other: Dictionary) -> dict[str, list[float]]:
    """Features that another dictionary, of another seed, has too, by group.

    Returns:
        The share with a partner of cosine above 0.7, the mean of the largest cosines, and both
        again for partners among as many random directions.

    Raises:
        GrokError: the two are not of one design.
    """
    if dictionary.design != other.design:
        raise GrokError(
            f"A {dictionary.design.kind} with {dictionary.design.features} features a group and a "
            f"{other.design.kind} with {other.design.features}: only dictionaries of one design "
            "can be compared."
        )
    rng = np.random.default_rng(0)
    out: dict[str, list[float]] = {"share": [], "mean": [], "chance_share": [], "chance_mean": []}
    for a, b in zip(dictionary.params["decoder"], other.params["decoder"], strict=True):
        for prefix, one in (("", b), ("chance_", rng.standard_normal(b.shape))):
            found = partner_cosines(a, one)
            out[f"{prefix}share"].append(float((found > PARTNER).mean()))
            out[f"{prefix}mean"].append(float(found.mean()))
    return out


def measured(
    model: Model,
    dictionary: Dictionary,
    fit: Windows,
    held_out: Windows,
    plan: Plan,
    others: Mapping[str, Control] | None = None,
) -> dict[str, Any]:
    """Every measure, as JSON holds it; lists are by site or group, in the design's order.

    Args:
        model: that the dictionary is for.
        dictionary: to be measured.
        fit: text of training, for the controls.
        held_out: other text.
        plan: how much of both.
        others: control dictionaries by name.

    Raises:
        GrokError: the dictionary is for another model, or a control is of another design.
    """
    subject = _subject(model, dictionary, fit, held_out, plan)
    here, elsewhere = _controls_by_model(dictionary, others or {}, model)
    found = _on_all_tokens(subject, plan)
    if plan.curve:
        found["curve"] = curve(subject, here, plan.curve, plan.spliced_curve)
        for name, control in elsewhere.items():
            found["curve"]["rows"] += _elsewhere(subject, name, control, plan)
    if plan.spliced:
        found["spliced"] = standing_in(subject, plan.spliced)
        found["alone"] = alone(subject, plan.spliced // 2, found["dictionary"]["l0"][:-1])
    if plan.labelled:
        found |= _by_label(subject, here, plan)
    found["plan"] = plan._asdict()
    return found


def _subject(
    model: Model, dictionary: Dictionary, fit: Windows, held_out: Windows, plan: Plan
) -> Subject:
    config = model.config
    dictionary.check_model(model.sha256, config.d_model, config.n_layers, model.name)
    empty = np.zeros(0)
    none = Means(empty, (0, 0))
    unfitted = Fitted(empty, empty, none, none, config.vocab_size, empty)
    subject = Subject(model, dictionary, fit, held_out, unfitted, plan.batch)
    return replace(subject, fitted=_fitted(subject, plan))


def _fitted(subject: Subject, plan: Plan) -> Fitted:
    """The controls that need no dictionary, fitted on training text."""
    design, vocabulary = subject.dictionary.design, subject.model.config.vocab_size
    places = spread(subject.fit, plan.fitted, subject.dictionary.skipped)
    shape = (len(design.targets), design.d_model)
    known = ids(subject.fit, places)
    needed = ids(
        subject.held_out,
        spread(subject.held_out, int(subject.held_out.lengths.sum()), subject.dictionary.skipped),
    )

    def table(keys: np.ndarray, wanted: np.ndarray) -> Means:
        return Means(kept_keys(keys, wanted, 4 * shape[0] * shape[1]), shape)

    of_tokens = table(known[0], needed[0])
    of_pairs = table(*(pair_keys(before, own, vocabulary) for own, before in (known, needed)))
    fitting: Fitting | None = None
    for part in parts(subject.model, design, subject.fit, places, subject.batch):
        y = np.asarray(part.batch.y)
        if fitting is None:
            fitting = Fitting(y.astype(np.float64).mean(1), vocabulary, of_tokens, of_pairs)
        fitting.add(y, part.tokens, part.previous)
    assert fitting is not None
    return fitting.fitted()


def _controls_by_model(
    dictionary: Dictionary, others: Mapping[str, Control], model: Model
) -> tuple[dict[str, Dictionary], dict[str, Control]]:
    """Control dictionaries of this model, and those of others, all checked."""
    here, elsewhere = {}, {}
    for name, own in others.items():
        if own.dictionary.design != dictionary.design:
            raise GrokError(
                f"Control {name}: a {own.dictionary.design.kind} with "
                f"{own.dictionary.design.features} features a group is not of the design of what "
                "is measured, so they cannot be brought to the same numbers of active features."
            )
        at = own.model or model
        config = at.config
        own.dictionary.check_model(at.sha256, config.d_model, config.n_layers, at.name)
        if own.model is None:
            here[name] = own.dictionary
        else:
            elsewhere[name] = own
    return here, elsewhere


def _elsewhere(subject: Subject, name: str, control: Control, plan: Plan) -> list[dict[str, Any]]:
    """Rows of a dictionary of another model, on that model's values of the same tokens."""
    assert control.model is not None
    sample = subject.sample()
    found = apply(subject.dictionary, sample.batch.x, sample.batch.chosen).features
    l0 = mean_active(found)
    own = _subject(control.model, control.dictionary, subject.fit, subject.held_out, plan)
    their = own.sample().batch
    level = at_l0(control.dictionary, their, [l0])[0].dictionary
    rows = curve(replace(own, dictionary=level), {}, plan.curve, 0)["rows"]
    names = {"dictionary": name, "pca_best": f"{name}_pca_best"}
    return [{**row, "method": names[row["method"]]} for row in rows if row["method"] in names]


def _on_all_tokens(subject: Subject, plan: Plan) -> dict[str, Any]:
    """Measures that need no second run of the model, on as many tokens as the plan says."""
    dictionary, held_out = subject.dictionary, subject.held_out
    controls, activity = Controls(subject.fitted), Activity()
    mean = subject.fitted.mean
    reconstruction = Reconstruction(mean)
    shuffled = Shuffled.of(mean, len(held_out.names))
    for part in subject.parts(held_out, plan.held_out, ()):
        y = np.asarray(part.batch.y)
        found = jax.device_get(apply(dictionary, part.batch.x, part.batch.chosen))
        reconstruction.add(y, found.written)
        activity.add(found.features)
        controls.add(y, part.tokens, part.previous)
        shuffled.add(y, found.written, part.domain)
    design = dictionary.design
    level = by_target(design, activity.l0)
    errors = {
        "pca_best": at_level(controls.best, level),
        "pca_first": at_level(controls.first, level),
        "token_mean": controls.token_mean,
        "bigram_mean": controls.bigram_mean,
        "shuffled": shuffled.error(),
    }
    variance = reconstruction.variance
    nearest = [nearest_cosines(np.asarray(w)) for w in dictionary.params["decoder"]]
    return {
        "sites": [str(point) for point in design.targets],
        "held_out_tokens": reconstruction.n,
        "fitted_tokens": len(spread(subject.fit, plan.fitted, subject.dictionary.skipped).window),
        "dictionary": reconstruction.numbers() | activity.numbers(),
        "densities": {"bins": LOWEST_DENSITIES, "counts": activity.histogram()},
        "duplicates": [float((one > DUPLICATE).mean()) for one in nearest],
        "controls": {
            name: [*(error / variance).tolist(), float(error.sum() / variance.sum())]
            for name, error in errors.items()
        },
    }


def _by_label(subject: Subject, others: Mapping[str, Dictionary], plan: Plan) -> dict[str, Any]:
    """Probes and specificity, of the dictionary and of the controls at its number of features."""
    points = expert_points(subject.model, subject.dictionary.design.layers)
    taken = list(subject.parts(subject.held_out, plan.labelled, points))
    sample = subject.sample().batch
    features = apply(subject.dictionary, sample.x, sample.chosen).features
    l0 = mean_active(features)
    level = {name: at_l0(own, sample, [l0])[0].dictionary for name, own in others.items()}
    own = labelled(
        subject.model,
        {"dictionary": subject.dictionary, **level},
        taken,
        subject.held_out.names,
    )
    return {"probes": probed(own), "specificity": specificity(own)}
