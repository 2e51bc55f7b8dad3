"""Parts of a report on traces: the figures and tables of one, and of many with labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np

from lens import figures
from lens.chosen_by import chosen_by
from lens.errors import LensError
from lens.experts.selection import breadth
from lens.many_prompts import label_tests
from lens.many_prompts.trace_folder import TraceFolder
from lens.routers.gram import router_gram
from lens.routers.router_set import RouterSet
from lens.stats.permutation_tests import DRAWS, SEED, AgainstChance
from lens.storage import csv_text
from lens.tables import routers as tables
from lens.tables import traces as trace_tables
from lens.traces import (
    coselection,
    information,
    load_null,
    margins,
    repeats,
    routing,
)
from lens.traces import (
    logit_moments as moments,
)
from lens.traces.protocols import layer_numbers
from lens.traces.trace import Trace
from lens.words import fixed

if TYPE_CHECKING:
    from lens.report.parts import Part, Settings

REPEATS = "Neighbouring tokens with the same expert"
# Layers whose own figures a report of many traces holds.
LAYER_FIGURES = 12
SHUFFLED: dict[str, Any] = {"draws": DRAWS, "seed": SEED}
BY_LABEL: dict[str, Any] = {"draws": label_tests.DRAWS, "seed": SEED}


class TraceNumbers:
    """Everything a trace's figures show, each computed at first use."""

    def __init__(self, trace: Trace, routers: RouterSet) -> None:
        self.trace = trace
        self.routers = routers
        own = trace.model_sha256 == routers.sha256
        self.same = own and (trace.n_layers, trace.n_experts) == (
            routers.n_layers,
            routers.n_experts,
        )
        ids = layer_numbers(trace)
        self.labels = [routers.label(i) if self.same else f"L{n}" for i, n in enumerate(ids)]

    @cached_property
    def load(self) -> np.ndarray:
        return routing.load(self.trace)

    @cached_property
    def band(self) -> tuple[float, float]:
        trace = self.trace
        return routing.load_interval(trace.n_tokens, trace.top_k, trace.n_experts)

    @cached_property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        return load_null.share_interval(self.trace)

    @cached_property
    def pairs(self) -> tuple[coselection.CoSelection, coselection.PairTest]:
        found = routing.coselection(self.trace)
        return found, coselection.pair_test(found, coselection.pair_times(self.trace))

    @cached_property
    def repeats(self) -> dict[str, AgainstChance]:
        test = repeats.repeat_test(self.trace.experts, self.trace.n_experts)
        return {"first choice": test.first, "any choice": test.any}

    @cached_property
    def even_use(self) -> dict[str, AgainstChance]:
        return {"effective experts": load_null.even_use(self.trace)}

    @cached_property
    def information(self) -> dict[str, information.Information]:
        trace = self.trace
        found = {
            "token id": information.token_information(trace.tokens, trace.experts, trace.n_experts)
        }
        if trace.n_tokens >= 2 * information.BIN_TOKENS:
            found["position"] = information.position_information(trace.experts, trace.n_experts)
        return found

    @cached_property
    def margins(self) -> margins.MarginShape:
        return margins.margin_shape(self.trace)

    @cached_property
    def prediction(self) -> moments.LoadPrediction:
        isotropic = None
        if self.same:
            gram = router_gram(self.routers)
            isotropic = breadth(gram, self.routers.top_k, biases=self.routers.biases).probability
        return moments.load_prediction(self.trace, isotropic)


def trace_parts(trace: Trace, routers: RouterSet, settings: Settings) -> list[Part]:
    """The figures and tables of a prompt; compared with the routers where they are its own."""
    n = TraceNumbers(trace, routers)
    return [
        *_token_parts(n),
        *_load_parts(n),
        *_coselection_parts(n),
        *_repeat_parts(n),
        *_information_parts(n),
        *_margin_parts(n),
        *_path_parts(n),
        *_model_parts(n, settings),
    ]


def _token_parts(n: TraceNumbers) -> Iterator[Part]:
    from lens.report.parts import Part

    trace, words = n.trace, chosen_by(n.trace)
    pieces = [str(piece) for piece in trace.pieces]
    values: dict[str, tuple[str, Callable[[], np.ndarray]]] = {
        "margin": (f"margin ({words.unit})", lambda: routing.margin(trace)),
        "lead": (f"lead ({words.unit})", lambda: routing.lead(trace)),
        "entropy": ("entropy (nats)", lambda: routing.entropy(trace)),
        "top1_prob": (
            "largest gate (probability)" if trace.plain_gates else "largest gate",
            lambda: trace.gates[..., 0],
        ),
        "top1": ("first choice (expert index)", lambda: trace.experts[..., 0]),
    }
    yield Part("tokens", lambda: figures.token_strip(pieces, prompt_length=trace.prompt_length))

    def both(what: str, unit: str, value: Callable[[], np.ndarray]) -> Iterator[Part]:
        yield Part(
            f"token_map_{what}",
            lambda: figures.token_layer_map(
                value(),
                words.quantity(what),
                pieces,
                n.labels,
                prompt_length=trace.prompt_length,
                n_experts=trace.n_experts,
            ),
        )
        yield Part(f"token_{what}", lambda: tables.token_layer_csv(value(), unit, pieces, n.labels))

    for what, (unit, value) in values.items():
        yield from both(what, unit, value)


def _load_parts(n: TraceNumbers) -> Iterator[Part]:
    from lens.report.parts import Part

    yield Part(
        "load_by_layer",
        lambda: figures.load_by_layer(n.load, *n.band, n.labels, interval=n.interval),
    )
    yield Part("load", lambda: trace_tables.trace_load_csv(n.load, n.labels, *n.band, *n.interval))
    yield Part(
        "effective_experts",
        lambda: figures.chance_lines(
            n.even_use,
            n.labels,
            title="Effective number of experts",
            unit="exp(entropy of the load)",
        ),
        SHUFFLED,
    )
    yield Part(
        "effective_experts_by_layer",
        lambda: trace_tables.chance_csv(n.even_use, n.labels, "experts"),
        SHUFFLED,
    )


def _coselection_parts(n: TraceNumbers) -> Iterator[Part]:
    from lens.report.parts import Part

    def together() -> alt.TopLevelMixin:
        pairs = n.pairs[0]
        counts, expected = pairs.counts.sum(axis=0), pairs.expected.sum(axis=0)
        some = expected > 0
        lift = np.divide(counts, expected, out=np.full(expected.shape, np.nan), where=some)
        return figures.coselection_matrix(lift, counts, label="all layers")

    yield Part("coselection_matrix", together)
    yield Part("coselection", lambda: trace_tables.pairs_csv(*n.pairs, n.labels))


def _margin_parts(n: TraceNumbers) -> Iterator[Part]:
    from lens.report.parts import Part

    def figure() -> alt.TopLevelMixin:
        shape = n.margins
        return figures.margin_quantiles(shape.quantiles, shape.normal, shape.levels, n.labels)

    drawn = {"draws": margins.DRAWS, "seed": SEED}
    yield Part("margin_quantiles", figure, drawn)
    yield Part("margins", lambda: trace_tables.margins_csv(n.margins, n.labels), drawn)


def _path_parts(n: TraceNumbers) -> Iterator[Part]:
    from lens.report.parts import Part

    yield Part(
        "routing_paths", lambda: figures.routing_paths(routing.paths(n.trace).counts, n.labels)
    )


def _repeat_parts(n: TraceNumbers | FolderNumbers, prefix: str = "") -> Iterator[Part]:
    from lens.report.parts import Part

    yield Part(
        f"{prefix}repeat_rates",
        lambda: figures.chance_lines(
            n.repeats, n.labels, title=REPEATS, unit="share of neighbouring tokens"
        ),
        SHUFFLED,
    )
    yield Part(
        f"{prefix}repeat_rates_by_layer",
        lambda: trace_tables.chance_csv(n.repeats, n.labels, "share of neighbours"),
        SHUFFLED,
    )


def _information_parts(n: TraceNumbers | FolderNumbers, prefix: str = "") -> Iterator[Part]:
    from lens.report.parts import Part

    yield Part(
        f"{prefix}information",
        lambda: figures.chance_lines(
            {name: one.test for name, one in n.information.items()},
            n.labels,
            title="Information about the expert",
            unit="mutual information (nats)",
        ),
        SHUFFLED,
    )
    yield Part(
        f"{prefix}information_by_layer",
        lambda: trace_tables.information_csv(n.information, n.labels),
        SHUFFLED,
    )


def _model_parts(n: TraceNumbers, settings: Settings) -> Iterator[Part]:
    from lens.report.numbers import RouterNumbers
    from lens.report.parts import Part

    def against_breadth() -> alt.TopLevelMixin:
        if not n.same:
            raise LensError(
                "The trace was made with other routers than these, so that loads and routers "
                "cannot be compared. Give the routers that the trace names."
            )
        measures = RouterNumbers(n.routers, settings).measures
        return figures.breadth_against_load(measures.breadth, n.load, n.labels)

    def predicted() -> alt.TopLevelMixin:
        found = n.prediction
        names = {"logits' mean and covariance": found.normal.load}
        note = f"normal logits: r {fixed(found.normal.correlation, 2)}"
        if found.isotropic is not None:
            names["weights alone"] = found.isotropic.load
            note += f"; weights alone: r {fixed(found.isotropic.correlation, 2)}"
        return figures.predicted_load(found.measured, names, n.labels, note=note)

    yield Part("breadth_against_load", against_breadth)
    yield Part("predicted_load", predicted, SHUFFLED)
    yield Part(
        "predicted_load_by_expert",
        lambda: trace_tables.predicted_load_csv(n.prediction, n.labels),
        SHUFFLED,
    )


class FolderNumbers:
    """Everything that figures of many traces show, each computed at first use."""

    def __init__(self, folder: TraceFolder, routers: RouterSet) -> None:
        self.folder = folder
        same = folder.model_sha256 == routers.sha256 and folder.n_layers == routers.n_layers
        self.labels = [routers.label(i) if same else f"L{i}" for i in range(folder.n_layers)]

    @cached_property
    def test(self) -> label_tests.LabelTest:
        return label_tests.label_test(self.folder)

    @cached_property
    def load(self) -> label_tests.LabelLoad:
        return label_tests.load_by_label(self.folder)

    @cached_property
    def information(self) -> dict[str, information.Information]:
        folder = self.folder
        found = {"token id": label_tests.folder_token_information(folder)}
        if len(folder.tokens) >= 2 * information.BIN_TOKENS:
            found["position"] = label_tests.folder_position_information(folder)
        return found

    @cached_property
    def repeats(self) -> dict[str, AgainstChance]:
        test = label_tests.folder_repeats(self.folder)
        return {"first choice": test.first, "any choice": test.any}


def trace_folder_parts(folder: TraceFolder, routers: RouterSet) -> list[Part]:
    """The figures and tables of many traces; labels are compared where there are enough.

    Names begin with "traces_". Of sets of many layers the figures of single layers are those
    of the layers whose experts the label tells most of.
    """
    from lens.report.parts import Part

    n = FolderNumbers(folder, routers)
    return [
        Part("traces", lambda: _folder_csv(folder)),
        *_label_parts(n),
        *_information_parts(n, "traces_"),
        *_repeat_parts(n, "traces_"),
    ]


def _label_parts(n: FolderNumbers) -> Iterator[Part]:
    from lens.report.parts import Part

    def lift(layer: int) -> alt.TopLevelMixin:
        return figures.label_lift(
            n.test.lift[:, layer],
            n.test.q[:, layer],
            n.load.share[:, layer],
            n.folder.labels,
            label=n.labels[layer],
        )

    yield Part(
        "traces_label_information",
        lambda: figures.chance_lines(
            {"label and expert": n.test.test},
            n.labels,
            title="What the label tells of the expert",
            unit="mutual information (nats)",
        ),
        BY_LABEL,
    )
    yield Part(
        "traces_labels",
        lambda: trace_tables.label_lift_csv(n.test, n.folder.labels, n.labels),
        BY_LABEL,
    )
    for layer in _telling_layers(n.folder):
        yield Part(f"traces_label_lift_{n.labels[layer]}", partial(lift, layer), BY_LABEL)


def _telling_layers(folder: TraceFolder) -> list[int]:
    """Rows of the layers that get a figure of their own, in order."""
    if folder.n_layers <= LAYER_FIGURES:
        return list(range(folder.n_layers))
    share = label_tests.load_by_label(folder).share
    spread = share.var(axis=0).sum(axis=1)
    return sorted(int(i) for i in np.argsort(-spread)[:LAYER_FIGURES])


def _folder_csv(folder: TraceFolder) -> str:
    return csv_text.table_csv(
        {
            "trace": list(folder.names),
            "label": np.asarray(folder.labels)[folder.label_of],
            "tokens": folder.n_tokens,
            "margin, mean": folder.margins.mean(axis=1),
            "entropy, mean (nats)": folder.entropies.mean(axis=1),
        }
    )
