"""What the official code computed (tests/data/*.golden.*.npz), and the same from our model.

Axes: L layers, B sequences, T tokens, E experts, K experts a token, D d_model, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grok.architectures import forward
from grok.architectures.moe import run_selected
from grok.checkpoints.grok1 import EMBEDDING
from grok.engine import compiled as passes
from grok.runner import loading as runner

DATA = Path(__file__).resolve().parents[1] / "data"
SETS = ("tiny3", "tiny3_bf16scales", "shard8", "tiny12")
DTYPES = {"f32": "float32", "bf16n": "bfloat16"}
CAPTURED = ("len7", "len33", "lead2_len12", "inner0_len12")


@dataclass(frozen=True)
class Pass:
    """One pass over one case. Entries that the official run did not keep are None."""

    tokens: np.ndarray  # [B, T]
    logits: np.ndarray  # [B, T, V]
    router_logits: np.ndarray  # [L, B, T, E]
    router_probs: np.ndarray  # [L, B, T, E]
    experts: np.ndarray  # [L, B, T, K]
    gates: np.ndarray  # [L, B, T, K]
    resid: np.ndarray | None = None  # [L + 1, B, T, D]
    router_input: np.ndarray | None = None  # [L, B, T, D]
    attn_out: np.ndarray | None = None
    moe_out: np.ndarray | None = None

    @property
    def is_token(self) -> np.ndarray:
        """[B, T], False at padding."""
        return self.tokens > 0

    @property
    def sets(self) -> np.ndarray:
        """Chosen experts in ascending order: near ties may swap the two of a token."""
        return np.sort(self.experts, axis=-1)

    @property
    def gates_by_expert(self) -> np.ndarray:
        """Gates in the order of `sets`."""
        return np.take_along_axis(self.gates, np.argsort(self.experts, axis=-1), axis=-1)


@cache
def stored(name: str, mode: str) -> Mapping[str, np.ndarray]:
    """All arrays of a golden file."""
    with np.load(DATA / f"{name}.golden.{mode}.npz", allow_pickle=False) as file:
        return dict(file)


def cases(name: str) -> list[str]:
    """Names of the cases of a set."""
    found = (key.split(".") for key in stored(name, "f32"))
    return [parts[0] for parts in found if parts[1:] == ["tokens"]]


def official(name: str, mode: str, case: str) -> Pass:
    """What the official code computed."""
    arrays, prefix = stored(name, mode), f"{case}.{mode}."
    names = {"experts": "top2_index", "gates": "top2_gate"}
    parts = {
        field.name: arrays.get(prefix + names.get(field.name, field.name))
        for field in fields(Pass)
        if field.name != "tokens"
    }
    return Pass(tokens=np.atleast_2d(arrays[f"{case}.tokens"]), **parts)  # type: ignore[arg-type]


@partial(
    jax.jit,
    static_argnames=("config", "dispatch"),
    compiler_options={"xla_allow_excess_precision": False},
)
def _layer(config: Any, params: Any, h: Any, keys: Any, cache: Any, dispatch: Any) -> Any:
    return forward.layer(config, params, h, np.int32(0), keys, cache, dispatch=dispatch)[:2]


def run(
    model: runner.Model,
    tokens: np.ndarray,
    *,
    config: Any = None,
    order: list[int] | None = None,
    dispatch: Any = run_selected,
    between: Callable[[jax.Array], jax.Array] = lambda h: h,
) -> Pass:
    """One pass with everything kept; the options make wrong models, to see that they are seen.

    Args:
        model: on one device.
        tokens: [B, T].
        config: in place of the model's.
        order: of the layers.
        dispatch: of the experts.
        between: applied to the residual stream before each layer and before the last norm.
    """
    config = config or model.config
    one = replace(config, n_layers=1)  # models that differ in depth share what is compiled
    weights, cache = model.engine.layers, model.engine.cache(*tokens.shape)
    h = between(passes.embed_pass(one, {EMBEDDING: weights.io[EMBEDDING]}, tokens, model.dtype))
    resid, traces = [h], []
    for index in order or range(len(weights.params)):
        h, trace = _layer(one, weights.params[index], h, tokens > 0, cache, dispatch)
        h = between(h)
        resid.append(h)
        traces.append(trace)
    head, _ = passes.head_pass(one, weights.io, h, 1, model.dtype, model.mesh)

    def stacked(parts: list[Any]) -> np.ndarray:
        return np.stack([np.asarray(part).astype(np.float32) for part in parts])

    return Pass(
        tokens=tokens,
        logits=np.asarray(head.logits).astype(np.float32),
        router_logits=stacked([t.choice.logits for t in traces]),
        router_probs=stacked([t.choice.probs for t in traces]),
        experts=stacked([t.choice.experts for t in traces]).astype(int),
        gates=stacked([t.choice.gates for t in traces]),
        resid=stacked([h.astype(jnp.dtype(model.dtype)) for h in resid]),
        router_input=stacked([t.router_input for t in traces]),
        attn_out=stacked([t.attn_out for t in traces]),
        moe_out=stacked([t.moe_out for t in traces]),
    )


def together(name: str) -> list[list[str]]:
    """Cases that are run as one batch, padded on the right to the longest of them.

    Attention never looks right, so this leaves every case's own rows as they are, except
    rows that no key is open to: they attend evenly to all positions. Those occur at the
    front of lead2_len12 alone, which is run at its own length.
    """
    own = ["lead2_len12", "inner0_len12"]
    return [own, [case for case in cases(name) if case not in own]]


@cache
def computed(name: str, mode: str) -> Mapping[str, Pass]:
    """What our model computes in the same cases, on one device."""
    model = runner.load(DATA / name, dtype=DTYPES[mode], mesh=(1, 1))
    out = {}
    for group in together(name):
        rows = [official(name, mode, case).tokens for case in group]
        length = max(row.shape[1] for row in rows)
        padded = [np.pad(row, [(0, 0), (0, length - row.shape[1])]) for row in rows]
        whole = run(model, np.concatenate(padded))
        first = 0
        for case, row in zip(group, rows, strict=True):
            out[case] = part(whole, first, row.shape)
            first += row.shape[0]
    return out


def part(whole: Pass, first: int, shape: tuple[int, ...]) -> Pass:
    """The sequences and tokens of one case out of a batch."""
    rows, tokens = slice(first, first + shape[0]), slice(shape[1])
    kept = {
        field.name: getattr(whole, field.name)[
            (rows, tokens) if field.name in ("tokens", "logits") else (slice(None), rows, tokens)
        ]
        for field in fields(Pass)
    }
    return Pass(**kept)
