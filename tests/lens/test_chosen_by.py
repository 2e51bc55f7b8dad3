"""Words for what a router gives follow from the trace, one family of each kind of choice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grok.architectures.families import architecture_of, open_checkpoint
from lens import figures
from lens.chosen_by import chosen_by
from lens.errors import LensError
from lens.figures.traces.token_maps import TOKEN_VALUES
from lens.figures.traces.tokens import drawn_experts
from lens.prompt_pairs.paired_routing import QUANTITIES
from lens.traces import Trace, logit_moments, margins, router_geometry, routing

DATA = Path(__file__).resolve().parents[1] / "data" / "huggingface"
# Folder: all experts' values, what the chosen are the largest of, whether gates are those values.
KINDS = {
    "deepseek_v2": ("probability", "logits", True),
    "qwen3_moe": ("probability", "logits", False),
    "granitemoe": ("probability", "logits", False),
    "deepseek_v3_fp8": ("score", "corrected score", False),
    "minimax_m2": ("score", "corrected score", False),
    "llama4_text": ("score", "logits", False),
}


def trace_of(name: str) -> Trace:
    """What transformers computed, with what the architecture says of it."""
    architecture = architecture_of(open_checkpoint(DATA / name))
    with np.load(DATA / f"{name}.golden.npz") as golden:
        found = {
            "tokens": golden["p33.tokens"],
            "router_logits": golden["p33.router_logits"],
            "router_probs": golden["p33.scores"],
            "experts": golden["p33.experts"],
            "gates": golden["p33.weights"],
        }
        chosen_of = golden["p33.selection"] if architecture.has_choice_values else None
    n = len(found["tokens"])
    return Trace(
        **found,
        pieces=np.full(n, "a"),
        prompt_length=n,
        candidates=np.zeros((n, 0), np.int32),
        candidate_probs=np.zeros((n, 0), np.float32),
        model_sha256="0" * 64,
        score=architecture.score,
        plain_gates=architecture.plain_gates,
        choice_values=chosen_of,
    )


@pytest.fixture(scope="module")
def traces():
    return {name: trace_of(name) for name in KINDS}


def test_words_are_those_of_the_familys_own_rule(traces):
    for name, (value, unit, plain) in KINDS.items():
        words = chosen_by(traces[name])
        assert (words.value, words.unit, words.plain_gates) == (value, unit, plain), name
        assert (words.said == "") == (plain and unit == "logits")
        assert ("do not sum to 1" in words.said) == (value == "score")
        assert ("probability" in words.axis) == (value == "probability")
        assert words.margin("0.100") == ("0.100 logits" if unit == "logits" else f"0.100 of {unit}")


def test_every_quantity_has_colours_and_a_unit_of_its_own(traces):
    for trace in traces.values():
        words = chosen_by(trace)
        for what in (*QUANTITIES, "top1", "top1_value", "agreement"):
            assert words.quantity(what) in TOKEN_VALUES
        unit = TOKEN_VALUES[words.quantity("margin")].unit
        assert ("score" in unit) == (words.unit == "corrected score")
        assert ("logit" in unit) == (words.unit == "logits")


def test_a_cell_of_scores_has_no_even_share_and_marks_what_decides(traces):
    trace = traces["deepseek_v3_fp8"]
    by, chosen = trace.choice_values[1, 2], trace.experts[1, 2]
    chart = figures.cell_probabilities(
        trace.router_probs[1, 2],
        chosen,
        label="L2",
        gates=trace.gates[1, 2],
        chosen_by=by,
        axis=chosen_by(trace).axis,
    ).to_dict()
    text = f"{chart['title']['text']} {' '.join(chart['title']['subtitle'])}"
    assert "L2: scores" in text and "dashed" not in text and "lines: what experts" in text
    kinds = [layer["mark"]["type"] for layer in chart["layer"]]
    assert "tick" in kinds and "rule" not in kinds
    share = trace.gates[1, 2, 0] / trace.gates[1, 2].sum()
    assert f"mixed {100 * share:.0f}" in text
    marked = [rows for rows in chart["datasets"].values() if rows and set(rows[0]) >= {"expert"}]
    assert np.isfinite(by).sum() in [len(rows) for rows in marked]


def test_of_many_experts_the_chosen_and_the_next_in_line_are_drawn():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(128))
    order = np.argsort(-probs)
    chosen = order[:8].tolist()
    assert drawn_experts(probs, chosen) == order[:16].tolist()
    assert drawn_experts(probs[:16], [3, 5]) == list(range(16))
    chart = figures.cell_probabilities(probs, chosen, label="L1").to_dict()
    left = np.delete(probs, order[:16])
    said = " ".join(chart["title"]["subtitle"])
    assert f"112 others: {left.sum():.2f} together, at most {left.max():.3f}" in said
    digits = [one["mark"] for one in chart["layer"] if one["mark"]["type"] == "text"]
    assert [one["angle"] for one in digits] == [270]  # bars are narrower than their digits


def test_normal_logits_are_no_null_of_choices_that_logits_do_not_make(traces):
    for name in ("deepseek_v3_fp8", "minimax_m2"):
        for ask in (
            lambda trace: margins.margin_shape(trace, draws=49),
            lambda trace: margins.margin_histogram(trace, 0),
            lambda trace: logit_moments.load_prediction(trace, draws=49),
        ):
            with pytest.raises(LensError, match="other values than their logits"):
                ask(traces[name])
    assert margins.margin_shape(traces["granitemoe"], draws=49).n_tokens == 33


def test_tokens_of_scores_are_compared_by_their_shares(traces):
    trace = traces["minimax_m2"]
    found = router_geometry.neighbours(trace, 0, 1)
    assert 0 < found.distance[0] <= found.distance[-1] <= np.log(2) + 1e-9
    assert (routing.entropy(trace) <= np.log(trace.router_probs.shape[-1]) + 1e-6).all()
