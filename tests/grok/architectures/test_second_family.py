"""Another family runs in every way without a line of its own outside its file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import grok
from grok.errors import CheckpointError, SiteError
from grok.experiments import (
    ablation_sweep,
    collect,
    logit_difference,
    logit_lens,
    patch_sweep,
    what_if,
)
from grok.interventions import ban, edit, force, scale
from tests.grok.architectures.pre_norm_mixture import Config, registered, write_model

PROMPT = [5, 17, 3, 80, 9, 44, 5]
CONFIG = Config()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("second") / "model"
    write_model(made)
    with registered():
        yield made


@pytest.fixture(scope="module")
def tensors(folder, tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("again") / "model")


@pytest.fixture(scope="module")
def resident(folder):
    return grok.load(folder, mode="resident", dtype="float32", mesh=(1, 1))


@pytest.fixture(scope="module")
def streamed(folder):
    return grok.load(folder, mode="streamed", dtype="float32", memory_budget=2_000_000_000)


# --- an independent pass ------------------------------------------------------------------------


def norm(x, scale_):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-5) * scale_


def swiglu(x, t, prefix):
    gate, up, down = (t[f"{prefix}.{n}_proj.weight"] for n in ("gate", "up", "down"))
    first = x @ gate.T
    return (first / (1 + np.exp(-first)) * (x @ up.T)) @ down.T


def numpy_pass(tensors, tokens, banned=None):
    """Logits [T, V], router logits [L, T, E], experts and gates [L, T, K], in float64."""
    c = CONFIG
    t = {name: values.astype(np.float64) for name, values in tensors.items()}
    h = t["model.embed_tokens.weight"][tokens]
    found = [], [], []
    for i in range(c.n_layers):
        at = f"model.layers.{i}."
        x = norm(h, t[at + "input_layernorm.weight"])
        q, k, v = (
            (x @ t[f"{at}self_attn.{n}_proj.weight"].T).reshape(len(tokens), c.n_heads, c.d_head)
            for n in "qkv"
        )
        scores = np.einsum("thp,shp->hts", q, k) / np.sqrt(c.d_head)
        scores = np.where(np.tri(len(tokens), dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        mixed = np.einsum("hts,shp->thp", weights, v).reshape(len(tokens), -1)
        h = h + mixed @ t[at + "self_attn.o_proj.weight"].T
        x = norm(h, t[at + "post_attention_layernorm.weight"])
        z = x @ t[at + "mlp.gate.weight"].T
        found[0].append(z.copy())
        if banned is not None and banned[0] == i:
            z[:, banned[1]] = -np.inf
        probs = np.exp(z - z.max(-1, keepdims=True))
        probs /= probs.sum(-1, keepdims=True)
        experts = np.argsort(-probs, axis=-1)[:, : c.top_k]
        gates = np.take_along_axis(probs, experts, -1)
        gates /= gates.sum(-1, keepdims=True)
        found[1].append(experts)
        found[2].append(gates)
        out = swiglu(x, t, at + "mlp.shared_expert")
        for row, (own, weight) in enumerate(zip(experts, gates, strict=True)):
            for e, g in zip(own, weight, strict=True):
                out[row] += g * swiglu(x[row], t, f"{at}mlp.experts.{e}")
        h = h + out
    logits = norm(h, t["model.norm.weight"]) @ t["lm_head.weight"].T
    return logits, *(np.stack(parts) for parts in found)


def agrees(result, wanted):
    n = len(PROMPT)
    logits, router_logits, experts, gates = wanted
    np.testing.assert_allclose(result.logits[0, :n], logits, atol=2e-5)
    np.testing.assert_array_equal(result.experts[:, 0, :n], experts)
    np.testing.assert_allclose(result.gates[:, 0, :n], gates, atol=1e-5)
    shown = np.where(np.isfinite(result.router_logits[:, 0, :n]), router_logits, 0)
    there = np.where(np.isfinite(result.router_logits[:, 0, :n]), result.router_logits[:, 0, :n], 0)
    np.testing.assert_allclose(there, shown, atol=2e-5)


@pytest.mark.parametrize("mode", ["resident", "streamed"])
def test_it_gives_the_numbers_of_an_independent_pass(mode, tensors, request):
    model = request.getfixturevalue(mode)
    assert model.mode == mode
    agrees(model.run_one(np.array(PROMPT, np.int32)), numpy_pass(tensors, PROMPT))


@pytest.mark.parametrize("mode", ["resident", "streamed"])
def test_a_ban_takes_the_expert_away_and_its_share_goes_to_the_others(mode, tensors, request):
    model = request.getfixturevalue(mode)
    expert = int(numpy_pass(tensors, PROMPT)[2][1, 3, 0])
    edits = edit("router.logits", ban(expert), layers=1)
    found = model.run_one(np.array(PROMPT, np.int32), edits=edits)
    wanted = numpy_pass(tensors, PROMPT, banned=(1, expert))
    agrees(found, wanted)
    assert not (found.experts[1] == expert).any()
    np.testing.assert_allclose(found.gates[:, 0, : len(PROMPT)].sum(-1), 1, atol=1e-6)


def test_eight_devices_give_what_one_gives(folder, resident):
    split = grok.load(folder, mode="resident", dtype="float32", mesh=(2, 2))
    a, b = (model.run_one(np.array(PROMPT, np.int32)) for model in (resident, split))
    np.testing.assert_allclose(a.logits, b.logits, atol=1e-5)
    np.testing.assert_array_equal(a.experts, b.experts)


def test_streamed_and_resident_are_the_same_model_and_the_routers_decide(
    folder, resident, streamed, tmp_path
):
    assert resident.sha256 == streamed.sha256
    with registered():
        write_model(tmp_path / "other", seed=1)
        other = grok.load(tmp_path / "other", mode="resident", dtype="float32", mesh=(1, 1))
    assert other.sha256 != resident.sha256


def test_generation_through_the_cache_reads_each_token_once(resident, streamed):
    whole = resident.generate(PROMPT, max_new_tokens=6)
    assert whole.new_tokens == streamed.generate(PROMPT, max_new_tokens=6).new_tokens
    again = resident.trace_routing([*PROMPT, *whole.new_tokens[:-1]])
    np.testing.assert_allclose(again.router_logits, whole.trace.router_logits, atol=2e-5)


def test_it_is_swept_patched_and_read_by_the_logit_lens(resident, streamed):
    for model in (resident, streamed):
        sweep = ablation_sweep(model, PROMPT, layers=[1])
        alone = what_if(model, PROMPT, edit("router.logits", ban(0), layers=1))
        assert sweep.effect.shape == (1, CONFIG.n_experts)
        assert sweep.effect[0, 0] == pytest.approx(float(alone.kl.mean()), abs=1e-5)
    other = [*PROMPT[:-1], 7]
    metric = logit_difference(3, 80)
    patches = [
        patch_sweep(model, PROMPT, other, metric=metric, sites="resid_post")
        for model in (resident, streamed)
    ]
    np.testing.assert_allclose(patches[0].values, patches[1].values, atol=1e-4)
    lens = logit_lens(resident, PROMPT)
    trace = resident.trace_routing(PROMPT)
    np.testing.assert_array_equal(lens.tokens[-1], trace.candidates)


SITES = ("attn.output", "router.input", "moe.contribution", "moe.output", "moe.normed")


def test_every_site_is_kept_and_changed(resident, streamed):
    for model in (resident, streamed):
        with model.trace(PROMPT) as t:
            t.layers[1].router.experts.edit(force([4, 2]), positions=-1)
            t.layers[2].moe.contribution.edit(scale(0.5))
            kept = {
                site: getattr(getattr(t.layers[2], a), b).save()
                for site in SITES
                for a, b in [site.split(".")]
            }
            mid, post = t.layers[2].resid_mid.save(), t.layers[2].resid_post.save()
        assert set(t.routing.experts[1, -1]) == {4, 2}
        parts = np.asarray(kept["moe.contribution"].value)
        assert parts.shape == (len(PROMPT), CONFIG.top_k, CONFIG.d_model)
        np.testing.assert_allclose(parts.sum(1), kept["moe.output"].value, atol=1e-5)
        added = kept["moe.normed"].value  # with what the shared expert adds
        np.testing.assert_array_equal(mid.value + added, post.value)
        assert np.abs(added - kept["moe.output"].value).max() > 1e-3


def test_it_is_collected(resident, streamed, tmp_path):
    prompts = [PROMPT, PROMPT[2:], [80, 9]]
    for name, model in (("a", resident), ("b", streamed)):
        collect(model, prompts, tmp_path / name, sites="layers[1].router.input")
    a, b = (
        np.load(tmp_path / name / "activations" / "layers[1].router.input.npy") for name in "ab"
    )
    assert a.shape == (sum(map(len, prompts)), CONFIG.d_model)
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_few_tokens_read_their_own_experts_alone(streamed):
    for held in (streamed.engine.layers.fixed, streamed.engine.layers.cache):
        held.resize(0)  # nothing is left of what other tests read
    found = streamed.run_one(np.array([5], np.int32))
    one_expert = 3 * CONFIG.d_model * CONFIG.d_ff * 4
    fixed = {figures.bytes_read - CONFIG.top_k * one_expert for figures in streamed.last_pass}
    assert len(fixed) == 1 and 0 < fixed.pop() < CONFIG.n_experts * one_expert
    assert found.experts.shape[-1] == CONFIG.top_k


# --- refusals -----------------------------------------------------------------------------------


def changed_index(folder: Path, change) -> None:
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    change(index["weight_map"])
    file.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: m.pop("model.layers.1.mlp.gate.weight"), "1 of .* tensors are in no file"),
        (lambda m: m.update({"lm_head.weight": "../secret"}), "name of a file in the same folder"),
        (
            lambda m: m.update({"model.norm.weight": m["lm_head.weight"]}),
            r"holds no tensor model.norm.weight; expected it there",
        ),
    ],
)
@pytest.mark.parametrize("mode", ["resident", "streamed"])
def test_an_index_that_misleads_is_refused(tmp_path, change, says, mode):
    write_model(tmp_path / "model")
    changed_index(tmp_path / "model", change)
    with registered(), pytest.raises(CheckpointError, match=says):
        grok.load(tmp_path / "model", mode=mode, dtype="float32")


@pytest.mark.parametrize("mode", ["resident", "streamed"])
def test_a_config_of_another_model_is_refused_by_the_shapes(tmp_path, mode):
    write_model(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(file.read_text().replace('"d_ff": 24', '"d_ff": 32'))
    with (
        registered(),
        pytest.raises(CheckpointError, match=r"shape \[24, 32\]; expected \[32, 32\]"),
    ):
        grok.load(tmp_path / "model", mode=mode, dtype="float32")


def test_a_site_that_the_family_lacks_is_refused_by_name(folder, resident):
    from dataclasses import replace

    from grok.engine.engine import Engine

    engine = resident.engine
    sites = tuple(site for site in engine.architecture.layer_sites if site != "attn.output")
    without = Engine(
        replace(engine.architecture, layer_sites=sites),
        "float32",
        engine.layers,
        engine.embed_unembed,
    )
    model = type(resident)(without, name="x", sha256="0" * 64, tokenizer=None, mesh=resident.mesh)
    assert not any("attn.output" in site.name for site in model.sites())
    with pytest.raises(SiteError, match="no site 'attn.output'"):
        model.trace_routing(PROMPT, edits=edit("attn.output", scale(0.0)))
