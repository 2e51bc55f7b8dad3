"""Read-outs of Hugging Face folders agree with what each model's own norm and router compute."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from grok.architectures.families import architecture_of, open_checkpoint, open_embedding
from grok.architectures.huggingface import tensors
from grok.architectures.huggingface.norms import norm
from grok.checkpoints.tensor_spec import read_parameter
from grok.files import CACHE_VARIABLE
from lens.extract.folder import folder_routers
from lens.vocabulary.from_checkpoint import checkpoint_readout, routers_token

DATA = Path(__file__).resolve().parents[2] / "data" / "huggingface"
FAMILIES = sorted(path.name for path in DATA.iterdir() if path.is_dir())
TOKEN = 17


def logits_of_embedding(name, layer):
    """Logits of a layer's router for each token's embedding alone [V, E], without what experts
    share and what biases add."""
    checkpoint = open_checkpoint(DATA / name)
    architecture = architecture_of(checkpoint)
    own = [s for s in architecture.layer_specs(layer) if s.leaf.startswith(("norm_2", "router"))]
    specs = [architecture.outer_specs()[0], *own]
    params = {spec.leaf: jnp.asarray(read_parameter(checkpoint, spec)) for spec in specs}
    ids = jnp.arange(checkpoint.config.vocab_size)[None]
    h = architecture.embed(params, ids, jnp.float32)
    x = norm(checkpoint.config, params, tensors.NORM_2, h, jnp.float32)
    if f"{tensors.NORM_2}_bias" in params:  # lies in the routers' biases
        x = x - params[f"{tensors.NORM_2}_bias"]
    logits = np.asarray(x[0].astype(jnp.float32) @ params[tensors.ROUTER].astype(jnp.float32))
    return logits - logits.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_pushes_are_the_logits_of_the_embedding_alone(name):
    routers = folder_routers(DATA / name)
    row = routers.n_layers - 1
    wanted = logits_of_embedding(name, int(routers.layer_ids[row]))
    found = routers_token(routers, DATA / name, TOKEN).push[row]
    np.testing.assert_allclose(found, wanted[TOKEN], atol=2e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("name", ["qwen3_moe", "qwen2_moe"])  # a tied table, and one that is not
def test_the_tokens_of_an_expert_are_those_with_its_largest_logits(monkeypatch, tmp_path, name):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    routers = folder_routers(DATA / name)
    wanted = logits_of_embedding(name, int(routers.layer_ids[-1]))
    readout, piece = checkpoint_readout(routers, DATA / name)
    for expert in range(routers.n_experts):
        order = np.argsort(-wanted[:, expert])[:5]
        np.testing.assert_array_equal(readout.top[-1, expert, :5], order)
        top = readout.top_push[-1, expert, :5]
        np.testing.assert_allclose(top, wanted[order, expert], rtol=1e-4)
    assert (piece is None) == (name == "qwen2_moe")


def test_a_bfloat16_table_in_two_files_is_read_by_its_rows():
    embedding = open_embedding(open_checkpoint(DATA / "qwen2_moe"))
    whole = np.concatenate([block.copy() for block in embedding.blocks(100)])
    assert whole.shape == (251, 64) and whole.dtype == np.float32
    np.testing.assert_array_equal(embedding.row(200), whole[200])
