"""A two-layer mixture of which it is known how one word sets a route, and its dictionary.

Where token WORD stands, layer 0's experts write P. Layer 1's attention looks at all tokens alike
and turns P into R, and layer 1's router sends what has R to expert 3, and all else to expert 1.
"""

from __future__ import annotations

import numpy as np

from grok.architectures.grok1 import Grok1
from grok.config import GrokConfig
from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.dictionary import Dictionary, as_float32
from grok.engine.engine import Engine
from grok.engine.resident import Resident
from grok.engine.sharding import make_mesh
from grok.runner.model import Model

D, E = 16, 4
WORD, OTHERS = 3, (1, 2, 4, 5)
P, Q, R = 9, 10, 11  # dimensions of the stream
PROMPT = np.array([1, 2, WORD, 4, 5], np.int32)
ADDED = 2.0  # length of what experts and attention add

CONFIG = GrokConfig(
    vocab_size=8, d_model=D, n_layers=2, n_heads=1, n_kv_heads=1, d_head=D, widening=1.5,
    n_experts=E, top_k=1, context_length=32, embedding_multiplier=1.0, output_multiplier=1.0,
    attention_multiplier=1.0,
)  # fmt: skip


def _layer(layer: int) -> dict[str, np.ndarray]:
    unit, zero = np.eye(D), np.zeros((D, D))
    first, down = np.zeros((E, D, CONFIG.d_ff)), np.zeros((E, CONFIG.d_ff, D))
    first[:, WORD, 0], first[:, OTHERS, 1] = 1.0, 1.0
    down[:, 0, P], down[:, 1, Q] = 1.0, 1.0
    turn = zero.copy()
    turn[P, R] = 1.0
    router = np.random.default_rng(layer).standard_normal((D, E)) / 100
    if layer:
        router[R, 3], router[[WORD, *OTHERS], 1] = 1.0, 0.2
    short = np.full(D, ADDED / D**0.5)
    return {
        "multi_head_attention/query/w": zero,
        "multi_head_attention/key/w": zero,
        "multi_head_attention/value/w": turn,
        "multi_head_attention/linear/w": unit,
        "moe/linear/w": first,
        "moe/linear_v/w": first,
        "moe/linear_1/w": down,
        "router/w": router,
        "rms_norm/scale": np.ones(D),
        "rms_norm_1/scale": short * layer,
        "rms_norm_2/scale": np.ones(D),
        "rms_norm_3/scale": short,
    }


def planted_model() -> Model:
    architecture, mesh = Grok1(CONFIG), make_mesh(CONFIG, (1, 1))
    words = np.eye(D)[:8]
    outer = {"language_model/in_out_embed/embeddings": words,
             "language_model/rms_norm/scale": np.ones(D)}  # fmt: skip
    layers = [{k: np.float32(v) for k, v in _layer(i).items()} for i in range(2)]
    assert {k: v.shape for k, v in layers[0].items()} == {
        spec.leaf: tuple(spec.shape) for spec in architecture.layer_specs(0)
    }
    resident = Resident(architecture, layers, {k: np.float32(v) for k, v in outer.items()},
                        "float32", mesh)  # fmt: skip
    engine = Engine(architecture, "float32", resident, resident)
    return Model(engine, name="planted", sha256="", tokenizer=None, mesh=mesh)


def planted_transcoder() -> Dictionary:
    """Feature 0 is WORD, and writes P; feature 1 is any other word, and writes Q."""
    design = Design("transcoder", (0, 1), ("router.input",), ("moe.normed",), 2, D)
    encoder, decoder = np.zeros((1, D, 2)), np.zeros((2, 1, D))
    # What the router reads of a word in layer 0 has length √D; a feature's strength there is 1.
    encoder[0, WORD, 0], encoder[0, OTHERS, 1] = D**-0.5, D**-0.5
    decoder[0, 0, P], decoder[1, 0, Q] = ADDED, ADDED
    params = {
        "encoder": [encoder] * 2,
        "encoder_bias": np.zeros((2, 2)),
        "decoder": [decoder] * 2,
        "decoder_bias": np.zeros((2, D)),
        "threshold": np.full((2, 2), 0.1),
    }
    return Dictionary(design, Activation("jumprelu"), as_float32(params))
