"""A model whose first layer has no experts: edits, sweeps and files name its own layers."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as parquet
import pytest

from grok import run
from grok.errors import SiteError
from grok.experiments.ablation import ablation_sweep
from grok.experiments.collecting import collect
from grok.experiments.metrics import kl_divergence, probability
from grok.experiments.patching import patch_sweep
from grok.experiments.what_if import what_if
from grok.interventions.edits import ban, edit, replace_with
from grok.interventions.sites import HookPoint
from lens.many_prompts.trace_folder import gather
from lens.traces import routing

TOKENS = [5, 17, 3, 80, 9, 44]
OTHER = [5, 17, 3, 81, 9, 44]
ROUTED = [1, 2, 3]  # of four layers


@pytest.fixture(scope="module")
def dense_first(model):
    """Chooses by corrected sigmoid scores within groups."""
    return model("huggingface/deepseek_v3_fp8")


def test_a_sweep_takes_the_layers_that_have_experts(dense_first):
    sweep = ablation_sweep(dense_first, TOKENS)
    assert sweep.layers.tolist() == ROUTED and sweep.rows.tolist() == [0, 1, 2]
    base = dense_first.trace_routing(TOKENS)
    for row, layer in enumerate(ROUTED):
        counts = np.bincount(base.experts[row].ravel(), minlength=16)
        np.testing.assert_allclose(sweep.load[row], counts / counts.sum())
        expert = int(base.experts[row, 0, 0])
        alone = what_if(dense_first, TOKENS, edit("router.logits", ban(expert), layers=layer))
        assert sweep.values[row, expert] == pytest.approx(alone.kl.mean(), abs=1e-5)
        assert not (alone.changed.experts[row] == expert).any()
        np.testing.assert_array_equal(alone.changed.experts[:row], base.experts[:row])


def test_a_sweep_of_some_layers_stands_beside_their_loads(dense_first):
    sweep = ablation_sweep(dense_first, TOKENS, layers=[3], metric=kl_divergence())
    assert sweep.layers.tolist() == [3] and sweep.rows.tolist() == [2]
    assert ((sweep.load[0] > 0) == np.isin(range(16), sweep.trace.experts[2])).all()


def test_a_patch_is_put_into_the_layers_that_have_its_site(dense_first):
    metric = probability(7)
    everywhere = patch_sweep(dense_first, TOKENS, OTHER, metric=metric, positions=3)
    assert everywhere.layers.tolist() == [0, *ROUTED]
    sweep = patch_sweep(dense_first, TOKENS, OTHER, metric=metric, sites="moe.output", positions=3)
    assert sweep.layers.tolist() == ROUTED
    point = HookPoint(2, "moe.output")
    tokens = np.array(TOKENS, np.int32)
    value = dense_first.run_one(tokens, wanted=[point]).kept[point][0, 3]
    put = edit("moe.output", replace_with(value), layers=2, positions=3)
    with dense_first.trace(OTHER) as t:
        t.add(put)
        logits = t.logits.save()
    after = np.exp(logits.value[-1].astype(np.float64))
    assert sweep.values[0, 1, 0] == pytest.approx(after[7] / after.sum(), abs=1e-6)


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: ablation_sweep(model, TOKENS, layers=0),
        lambda model: patch_sweep(
            model, TOKENS, OTHER, metric=probability(1), sites="router.logits", layers=[0, 1]
        ),
        lambda model: collect(model, [TOKENS], "never", sites="layers[0].router.logits"),
    ],
)
def test_a_layer_without_experts_is_refused_by_name(dense_first, ask):
    with pytest.raises(SiteError, match="layer 0 of this model has no experts; .* 1, 2, 3"):
        ask(dense_first)


def test_the_sites_of_a_layer_without_experts_are_those_it_has(dense_first):
    names = [site.name for site in dense_first.sites()]
    assert "layers[0].resid_post" in names and "layers[1].router.logits" in names
    assert not [name for name in names if name.startswith("layers[0].router")]


def test_files_and_tables_hold_the_models_own_numbers(dense_first, tmp_path):
    done = collect(dense_first, [TOKENS, OTHER], tmp_path / "c")
    events = parquet.read_table(done.routing_files[0]).to_pydict()
    assert sorted(set(events["layer"])) == ROUTED
    trace = dense_first.trace_routing(TOKENS)
    own = np.array(events["prompt"]) == 0
    margin = np.array(events["margin"])[own].reshape(len(TOKENS), 3, -1)[..., 0].T
    np.testing.assert_allclose(margin, routing.margin(trace), atol=1e-5)
    assert gather([("one", "all", trace)]).layer_ids.tolist() == ROUTED
    heads = run._table(trace).splitlines()[1]
    assert heads.split() == ["token", "L1", "L2", "L3"]
