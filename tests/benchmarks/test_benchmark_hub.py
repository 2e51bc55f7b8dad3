"""The count of what is fetched from the Hub, on repositories that are held sparsely."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.hub.command import HEADER, MOST_RANGES, Fetching, fetching, hub_of
from benchmarks.hub.models import MODELS, Released, files_of_model, needed_bytes
from benchmarks.hub.server import REPOSITORY
from grok.checkpoints.routing.names import find_routers
from lens.extract.hub import extract_from_hub

pytestmark = pytest.mark.benchmarks

# Bytes of all weights, as their repositories list them, in GB.
PUBLISHED = {
    "Mixtral-8x7B": 93.4,
    "OLMoE-1B-7B": 13.8,
    "Qwen3-30B-A3B": 61.1,
    "DeepSeek-V3": 688.6,
    "gpt-oss-120b": 65.2,
    "DBRX": 263.2,
}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_the_tensors_of_a_released_model_add_up_to_its_published_size(model: Released) -> None:
    files = files_of_model(model)
    assert sum(map(len, files.values())) / 1e9 == pytest.approx(PUBLISHED[model.name], rel=0.01)
    assert sum(name.endswith(".safetensors") for name in files) == model.n_files
    _, layers = find_routers(name for name, _, _ in model.tensors())
    assert len(layers) >= model.config.get("n_layers", 16)


@pytest.mark.parametrize("name", ["Mixtral-8x7B", "gpt-oss-120b"])
def test_what_is_fetched_of_a_released_model_is_little_more_than_its_routers(name: str) -> None:
    model = next(model for model in MODELS if model.name == name)
    found = fetching(name, files_of_model(model), needed_bytes(model), limit=MOST_RANGES)
    assert found.held and 1.0 < found.over < MOST_RANGES and found.sent < found.whole / 1000
    assert (found.listings, found.heads) == (1, 0) and found.gets < 200
    assert found.line().endswith("held") and len(HEADER.split("  ")) > 5


def test_more_than_the_limit_is_said_and_fails() -> None:
    found = Fetching("a", 1, 2, 100, 10, 13, 1, 1, 1, limit=1.25)
    assert not found.held and found.line().endswith("NOT HELD")


def test_numbers_of_a_sparse_model_arrive_as_they_are_held() -> None:
    model = next(model for model in MODELS if model.name == "OLMoE-1B-7B")
    files = files_of_model(model)
    with hub_of(files):
        routers, fetched = extract_from_hub(REPOSITORY)
    assert routers.routers.shape == (16, 2048, 64) and routers.top_k == 8
    assert np.isfinite(routers.routers).all() and routers.routers.std() == pytest.approx(1, 0.01)
    assert routers.norm_scales is not None
    assert routers.norm_scales.mean() == pytest.approx(1, abs=0.02)
    assert fetched.n_bytes < 1.25 * needed_bytes(model)
