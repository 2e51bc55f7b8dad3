import dataclasses
import json
import math
from pathlib import Path

import pytest

from grok.config import GROK_1, GrokConfig, read_config
from grok.errors import ConfigError, GrokError

DATA = Path(__file__).parents[1] / "data"


def test_grok_1_has_the_released_shape():
    assert GROK_1.vocab_size == 131072
    assert GROK_1.d_model == 6144
    assert GROK_1.n_layers == 64
    assert (GROK_1.n_heads, GROK_1.n_kv_heads, GROK_1.d_head) == (48, 8, 128)
    assert GROK_1.d_ff == 32768
    assert (GROK_1.n_experts, GROK_1.top_k) == (8, 2)
    assert GROK_1.context_length == 8192
    assert (GROK_1.pad_token, GROK_1.eos_token) == (0, 2)


def test_grok_1_multipliers_are_roots_of_its_sizes():
    assert GROK_1.embedding_multiplier == pytest.approx(math.sqrt(6144), rel=1e-15)
    assert GROK_1.attention_multiplier == pytest.approx(1 / math.sqrt(128), rel=1e-15)
    assert GROK_1.output_multiplier == pytest.approx(1 / math.sqrt(3), rel=1e-15)


def test_grok_1_has_316_billion_parameters_of_which_84_billion_are_active():
    assert GROK_1.n_parameters() / 1e9 == pytest.approx(315.7, abs=0.05)
    assert GROK_1.n_parameters(active=True) / 1e9 == pytest.approx(84, abs=0.6)


@pytest.mark.parametrize(
    ("widening", "d_model", "d_ff"),
    [(8, 6144, 32768), (4, 64, 176), (4, 128, 344), (2.5, 100, 168)],
)
def test_hidden_width_is_two_thirds_raised_to_a_multiple_of_eight(widening, d_model, d_ff):
    config = dataclasses.replace(GROK_1, widening=widening, d_model=d_model)
    assert config.d_ff == d_ff


@pytest.mark.parametrize("name", ["tiny3", "tiny3_bf16scales", "shard8", "tiny12"])
def test_a_config_file_survives_reading_and_writing(name):
    file = DATA / name / "config.json"
    config = read_config(file)
    assert config.to_dict() == json.loads(file.read_text())
    assert GrokConfig.from_dict(config.to_dict()) == config


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        GROK_1.n_layers = 2  # type: ignore[misc]


def test_config_errors_are_errors_of_the_package():
    assert issubclass(ConfigError, GrokError)


@pytest.mark.parametrize(
    "name",
    [
        "vocab_size",
        "d_model",
        "n_layers",
        "n_heads",
        "n_kv_heads",
        "d_head",
        "n_experts",
        "top_k",
        "context_length",
    ],
)
@pytest.mark.parametrize("bad", [0, -1, 1.0, True, "8", None, 10**12, [8]])
def test_sizes_that_no_model_has_are_refused_by_name(name, bad):
    with pytest.raises(ConfigError, match=f"^{name} is .*; expected a whole number"):
        dataclasses.replace(GROK_1, **{name: bad})


@pytest.mark.parametrize(
    "name", ["widening", "embedding_multiplier", "output_multiplier", "attention_multiplier"]
)
@pytest.mark.parametrize("bad", [0, -1.0, math.nan, math.inf, True, "1", None, 10**400, 1e300])
def test_factors_that_no_model_has_are_refused_by_name(name, bad):
    with pytest.raises(ConfigError, match=f"^{name} is .*; expected a positive number"):
        dataclasses.replace(GROK_1, **{name: bad})


@pytest.mark.parametrize("name", ["pad_token", "eos_token"])
@pytest.mark.parametrize("bad", [-1, 131072, 0.0, False, None])
def test_special_tokens_outside_the_vocabulary_are_refused(name, bad):
    with pytest.raises(ConfigError, match=f"^{name} is .* from 0 to 131071"):
        dataclasses.replace(GROK_1, **{name: bad})


def test_heads_that_cannot_be_shared_evenly_are_refused():
    with pytest.raises(ConfigError, match="n_heads is 48 and n_kv_heads 7"):
        dataclasses.replace(GROK_1, n_kv_heads=7)


def test_more_experts_a_token_than_there_are_is_refused():
    with pytest.raises(ConfigError, match="top_k is 9 with 8 experts"):
        dataclasses.replace(GROK_1, top_k=9)


def test_an_odd_head_width_is_refused():
    with pytest.raises(ConfigError, match="d_head is 127"):
        dataclasses.replace(GROK_1, d_head=127)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1]",
        "3",
        "null",
        '{"model": 3}',
        "{}",
        '"model"',
        "[" * 100_000,
        "9" * 10_000,
        "\x00",
    ],
)
def test_text_that_is_no_config_is_refused_with_the_file(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json: "):
        read_config(tmp_path / "config.json")


def test_bytes_that_are_no_text_are_refused_with_the_file(tmp_path):
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a readable JSON file"):
        read_config(tmp_path / "config.json")


def test_every_missing_key_is_named(tmp_path):
    values = GROK_1.to_dict()
    del values["vocab_size"], values["model"]["num_layers"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"lacks vocab_size, num_layers\."):
        read_config(tmp_path / "config.json")


def test_a_bad_value_in_a_file_is_refused_with_the_file(tmp_path):
    values = GROK_1.to_dict()
    values["model"]["num_layers"] = "64"
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=r"config\.json: n_layers is '64'"):
        read_config(tmp_path / "config.json")
