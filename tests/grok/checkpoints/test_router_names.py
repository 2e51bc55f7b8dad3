"""Names of router tensors, and what a config and its family say of routing."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grok.checkpoints.routing.names import LAYOUTS, find_routers, place_of
from grok.checkpoints.routing.settings import FAMILIES, routing_settings
from grok.errors import CheckpointError


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.id)
def test_layers_come_by_their_numbers_not_by_the_order_of_their_names(layout):
    names = [f"model.layers.{n}.{layout.router}" for n in (10, 2, 0, 33)]
    found, layers = find_routers(names)
    assert found is layout and list(layers) == [0, 2, 10, 33]
    assert layers[10].router == names[0] and layers[10].place == "model.layers.10."
    assert layers[10].bias is None and layers[10].correction is None


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.mlp.shared_expert_gate.weight",
        "model.layers.0.mlp.experts.3.gate_proj.weight",
        "model.layers.0.mlp.gate.qweight",
        "model.layers.0.mlp.gate.weight_scale",
        "model.layers.0.self_attn.gate.weight",
        "model.layers.0.mlp.shared_experts.gate.weight",
        "model.layers.x.mlp.gate.weight",
        "model.layers.٣.mlp.gate.weight",
        "model.layers.99999.mlp.gate.weight",
        "model.layers.0mlp.gate.weight",
        "xlayers.0.mlp.gate.weight",
        "mtp.layers.0.mlp.gate.weight",
        "model.mtp.layers.0.mlp.gate.weight",
    ],
)
def test_gates_that_are_no_routers_are_not_taken(name):
    with pytest.raises(CheckpointError, match="None of 1 tensors is a router of a known layout"):
        find_routers([name])
    _, layers = find_routers([name, "model.layers.7.mlp.gate.weight"])
    assert list(layers) == [7]


@pytest.mark.parametrize(
    "router, bias, correction",
    [
        ("mlp.router.weight", "mlp.router.bias", None),
        ("mlp.gate.weight", "mlp.gate.bias", None),
        ("mlp.gate.weight", None, "mlp.gate.e_score_correction_bias"),
        ("mlp.gate.weight", None, "mlp.moe_statics.e_score_correction_bias"),
        ("block_sparse_moe.gate.weight", None, "block_sparse_moe.e_score_correction_bias"),
    ],
)
def test_biases_of_logits_and_of_gates_are_told_apart(router, bias, correction):
    place = "model.layers.3."
    _, layers = find_routers([place + name for name in (router, bias, correction) if name])
    assert layers[3].bias == (None if bias is None else place + bias)
    assert layers[3].correction == (None if correction is None else place + correction)


def test_two_models_or_two_layouts_in_one_place_are_refused():
    one = "model.layers.0.mlp.gate.weight"
    for other in ("draft.layers.0.mlp.gate.weight", "model.layers.1.mlp.router.weight"):
        with pytest.raises(CheckpointError, match="Routers are named in 2 ways"):
            find_routers([one, other])


def test_one_layer_with_two_routers_is_refused():
    with pytest.raises(
        CheckpointError, match="'a.layers.01.* and 'a.layers.1.* the router of one layer"
    ):
        find_routers(["a.layers.1.mlp.gate.weight", "a.layers.01.mlp.gate.weight"])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(alphabet="alyersbock.019mpgtweih", max_size=40), max_size=5))
def test_no_names_lead_to_anything_but_an_error_or_layers(names):
    try:
        find_routers(names)
    except CheckpointError:
        pass
    for name in names:
        place = place_of(name)
        assert place is None or name.startswith(place)


@pytest.mark.parametrize(
    "config, expected",
    [
        ({"num_experts_per_tok": 2, "num_local_experts": 8}, (2, 8, None, None)),  # Mixtral
        ({"num_experts_per_tok": 8, "num_experts": 128, "hidden_size": 2048}, (8, 128, None, 2048)),
        (
            {"num_experts_per_tok": 8, "n_routed_experts": 256, "n_shared_experts": 1},
            (8, 256) + 2 * (None,),
        ),
        ({"experts_per_token": 4, "num_local_experts": 32}, (4, 32, None, None)),  # gpt-oss
        (
            {
                "d_model": 6144,
                "n_layers": 40,
                "ffn_config": {"moe_top_k": 4, "moe_num_experts": 16},
            },
            (4, 16, 40, 6144),
        ),
        (
            {
                "text_config": {
                    "num_experts_per_tok": 1,
                    "num_local_experts": 16,
                    "num_hidden_layers": 48,
                }
            },
            (1, 16, 48, None),
        ),
        ({"num_experts_per_tok": None, "moe_k": 6}, (6, None, None, None)),
        ({}, (None, None, None, None)),
    ],
)
def test_settings_are_found_by_the_keys_that_families_use(config, expected):
    found = routing_settings(config)
    assert (found.top_k, found.n_experts, found.n_layers, found.d_model) == expected


@pytest.mark.parametrize("value", ["two", 0, -1, 2.0, True, [2], 2**40, {}])
def test_a_setting_that_makes_no_sense_is_refused(value):
    with pytest.raises(CheckpointError, match="top_k is .*; expected a whole number from 1"):
        routing_settings({"num_experts_per_tok": value})


@pytest.mark.parametrize(
    "config, kind",
    [
        ({"model_type": "mixtral"}, "mixtral"),
        ({"model_type": "llama4", "text_config": {"model_type": "llama4_text"}}, "llama4"),
        ({"model_type": "some_vision", "text_config": {"model_type": "qwen3_moe"}}, "qwen3_moe"),
        ({"model_type": "dbrx", "ffn_config": {"model_type": ""}}, "dbrx"),
    ],
)
def test_a_family_is_known_by_its_model_type_or_its_text_models(config, kind):
    assert routing_settings(config).family is FAMILIES[kind]


def test_of_an_unknown_family_nothing_is_taken_for_granted():
    for config in ({"model_type": "flex_olmo"}, {"model_type": 3}, {}):
        family = routing_settings(config).family
        assert family.norm == "" and family.score is None


@pytest.mark.parametrize(
    "config, name",
    [
        ({"model_type": "mixtral"}, "mixtral"),
        (
            {"model_type": "mixtral", "_name_or_path": "own-er/Mo.del-8x7B"},
            "own-er/Mo.del-8x7B, mixtral",
        ),
        ({"model_type": "mixtral", "_name_or_path": "/home/someone/model"}, "mixtral"),
        ({"model_type": "mixtral", "_name_or_path": "../model"}, "mixtral"),
        ({"model_type": "mixtral", "_name_or_path": "a/b<script>"}, "mixtral"),
        ({"model_type": "<b>x\u202e", "_name_or_path": 3}, "?b?x?"),
        ({"model_type": "x" * 500}, "x" * 60),
        ({}, None),
    ],
)
def test_a_model_is_named_without_paths_or_markup(config, name):
    assert routing_settings(config).name == name


def test_what_changes_the_choice_or_the_gates_is_noted():
    grouped = {"n_group": 8, "topk_group": 4, "topk_method": "noaux_tc"}
    assert "within 4 of 8 groups" in routing_settings(grouped).notes[0]
    assert routing_settings({**grouped, "topk_method": "greedy"}).notes == ()
    assert routing_settings({**grouped, "topk_group": 8}).notes == ()
    assert "soft-capped at 30" in routing_settings({"router_logit_softcapping": 30.0}).notes[0]
    assert routing_settings({"router_logit_softcapping": 0, "n_group": None}).notes == ()
