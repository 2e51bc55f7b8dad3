"""The compiled parts of a pass have a form for GPUs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from benchmarks.gpu.layer import DTYPE, FULL, random_layer
from grok.architectures.grok1 import Grok1
from grok.architectures.moe import run_selected
from grok.engine.compiled import layer_pass


@pytest.mark.parametrize(("batch", "tokens"), [(1, 512), (8, 1)], ids=["prefill", "decode"])
def test_a_layer_at_full_size_is_lowered_for_a_gpu(batch: int, tokens: int) -> None:
    """Every operation has a form for GPUs; whether it is fast, only one can tell."""
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "model"))
    struct = jax.ShapeDtypeStruct
    params = jax.eval_shape(lambda: random_layer(FULL))
    cache = jax.eval_shape(lambda: Grok1(FULL).empty_cache(batch, 512, jnp.dtype(DTYPE)))
    lowered = layer_pass.trace(
        Grok1(FULL),
        params,
        struct((batch, tokens, FULL.d_model), jnp.float32),
        struct((), jnp.int32),
        struct((batch, 512), bool),
        cache,
        run_selected,
        mesh,
    ).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    assert "8x6144x32768xi8" in text and "custom_call" not in text
    floats = [
        f"8x{a}x{b}x{dtype}" for a, b in ((6144, 32768), (32768, 6144)) for dtype in ("bf16", "f32")
    ]
    assert not any(one in text for one in floats)  # no float copy of all experts' matrices
