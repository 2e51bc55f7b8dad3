"""Families against what Hugging Face transformers computed, see tests/data/huggingface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import grok
from grok.interventions import add_vector, ban, edit, zero_out
from grok.interventions.sites import HookPoint

DATA = Path(__file__).resolve().parents[2] / "data" / "huggingface"
FAMILIES = sorted(path.name for path in DATA.iterdir() if path.is_dir())
# Of the largest value of an array, or of 1.
FLOAT32 = 2e-5


MODES = ("resident", "streamed")


@pytest.fixture(scope="module", params=[(one, mode) for one in FAMILIES for mode in MODES])
def opened(request):
    name, mode = request.param
    with np.load(DATA / f"{name}.golden.npz") as golden:
        wanted = {key: golden[key] for key in golden.files}
    budget = 2_500_000_000 if mode == "streamed" else None
    model = grok.load(DATA / name, mode=mode, dtype="float32", mesh=(1, 1), memory_budget=budget)
    return model, wanted


def near(found, wanted, tolerance=FLOAT32):
    assert found.shape == wanted.shape
    there = np.isfinite(wanted)
    assert np.array_equal(np.isfinite(found), there)
    apart = np.abs(found[there] - wanted[there]).max()
    assert apart <= tolerance * max(1, np.abs(wanted[there]).max())


def test_a_prompt_gives_the_reference_numbers(opened):
    model, wanted = opened
    layers = [int(layer) for layer in wanted["moe_layers"]]
    assert list(model.config.moe_layers) == layers
    tokens = wanted["p33.tokens"]
    n = tokens.size
    sites = {"moe.normed", "moe.output", "moe.shared"} & set(model.engine.architecture.layer_sites)
    outputs = [HookPoint(layer, "moe.normed") for layer in layers]
    found = model.run_one(tokens, wanted=[HookPoint(i, site) for i in layers for site in sites])
    np.testing.assert_array_equal(found.experts[:, 0, :n], wanted["p33.experts"])
    near(found.router_logits[:, 0, :n], wanted["p33.router_logits"])
    near(found.router_probs[:, 0, :n], wanted["p33.scores"])
    values = found.router_probs if found.choice_values is None else found.choice_values
    near(values[:, 0, :n], wanted["p33.selection"])
    near(found.gates[:, 0, :n], wanted["p33.weights"])
    added = np.stack([found.kept[point][0, :n] for point in outputs])
    near(added / model.config.multipliers.residual, wanted["p33.moe_output"])
    near(found.logits[0, :n], wanted["p33.logits"])
    assert ("moe.shared" in sites) == bool(model.config.d_shared)
    if "moe.shared" not in sites:
        assert found.beside_shared is None
        return
    chosen, shared = (
        np.stack([found.kept[HookPoint(layer, site)][0, :n] for layer in layers]).astype(float)
        for site in ("moe.output", "moe.shared")
    )
    near(chosen + shared, wanted["p33.moe_output"])
    near(chosen, wanted.get("p33.routed_output", chosen))  # not of a gate on the input
    lengths = [np.linalg.norm(part, axis=-1) for part in (chosen, shared)]
    cosine = (chosen * shared).sum(axis=-1) / (lengths[0] * lengths[1])
    near(found.beside_shared[:, 0, :n], np.stack([*lengths, cosine], axis=-1))


def test_a_continuation_through_the_cache_is_the_reference_one(opened):
    model, wanted = opened
    tokens = wanted["greedy.tokens"]
    steps = list(model.stream(wanted["p7.tokens"], max_new_tokens=tokens.size))
    assert [step.token for step in steps] == tokens[: len(steps)].tolist()
    assert len(steps) == tokens.size or steps[-1].token in model.config.eos_tokens
    for step, logits in zip(steps, wanted["greedy.logits"], strict=False):
        near(step.routing.logits[0, step.read.size - 1], logits)


@pytest.mark.parametrize("name", ["add", "zero_attention", "zero_moe", "ban"])
def test_an_intervention_gives_the_reference_numbers(opened, name):
    model, wanted = opened
    layer = int(wanted[f"edit.{name}.layer"])
    edits = {
        "add": lambda: edit("resid_post", add_vector(wanted["edit.add.vector"]), layers=layer),
        "zero_attention": lambda: edit("attn.output", zero_out(), layers=layer),
        "zero_moe": lambda: edit("moe.normed", zero_out(), layers=layer),
        "ban": lambda: edit("router.logits", ban(int(wanted["edit.ban.expert"])), layers=layer),
    }[name]()
    tokens = wanted["p7.tokens"]
    found = model.run_one(tokens, edits=edits)
    near(found.logits[0, : tokens.size], wanted[f"edit.{name}.logits"])
    if name == "ban":
        row = list(model.config.moe_layers).index(layer)
        np.testing.assert_array_equal(
            found.experts[row, 0, : tokens.size], wanted["edit.ban.experts"]
        )
        near(found.gates[row, 0, : tokens.size], wanted["edit.ban.weights"])
