"""Sweeps, patches and collections of families whose routers decide in other ways than Grok-1's.

A model with corrected scores, groups and a layer without experts: see `test_dense_layers.py`.
"""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as parquet
import pytest

from grok.experiments.ablation import ablation_sweep
from grok.experiments.collecting import collect
from grok.experiments.metrics import probability
from grok.experiments.patching import patch_sweep
from grok.experiments.what_if import what_if
from grok.interventions.edits import ban, edit, replace_with
from grok.interventions.sites import HookPoint

# Renormalised shares of all; shares of the chosen, with biases; sigmoids on what is read, one
# expert a token and another for all.
FAMILIES = ("qwen3_moe", "gpt_oss_mxfp4", "llama4_text")
TOKENS = [5, 17, 3, 80, 9, 44]
OTHER = [5, 17, 3, 81, 9, 44]


@pytest.fixture(scope="module", params=FAMILIES)
def family(model, request):
    return model(f"huggingface/{request.param}")


def test_a_sweep_bans_each_expert_as_it_would_be_alone(family):
    layer = family.config.moe_layers[-1]
    sweep = ablation_sweep(family, TOKENS, layers=layer)
    base = family.trace_routing(TOKENS).experts[-1]
    expert = int(base[0, 0])
    alone = what_if(family, TOKENS, edit("router.logits", ban(expert), layers=layer))
    assert sweep.values[0, expert] == pytest.approx(alone.kl.mean(), abs=1e-5) and alone.kl.any()
    unused = [e for e in range(family.config.n_experts) if e not in base]
    np.testing.assert_allclose(sweep.values[0, unused], 0, atol=1e-5)


def test_a_patch_is_the_other_runs_value_in_its_place(family):
    layer, position = family.config.moe_layers[-1], 3
    sweep = patch_sweep(
        family, TOKENS, OTHER, metric=probability(7), sites="moe.output", layers=layer,
        positions=position,
    )  # fmt: skip
    point = HookPoint(layer, "moe.output")
    value = family.run_one(np.array(TOKENS, np.int32), wanted=[point]).kept[point][0, position]
    with family.trace(OTHER) as t:
        t.add(edit("moe.output", replace_with(value), layers=layer, positions=position))
        logits = t.logits.save()
    after = np.exp(logits.value[-1].astype(np.float64))
    assert sweep.values.ravel() == pytest.approx([after[7] / after.sum()], abs=1e-6)


def test_collected_files_hold_what_a_trace_holds(family, tmp_path):
    done = collect(family, [TOKENS, OTHER], tmp_path / "c")
    events = parquet.read_table(done.routing_files[0]).to_pydict()
    trace = family.trace_routing(OTHER)
    own = np.array(events["prompt"]) == 1
    shape = (len(OTHER), *trace.experts.shape[::2])
    experts = np.array(events["expert"])[own].reshape(shape).swapaxes(0, 1)
    gates = np.array(events["gate"])[own].reshape(shape).swapaxes(0, 1)
    np.testing.assert_array_equal(experts, trace.experts)
    np.testing.assert_allclose(gates, trace.gates, atol=1e-5)
