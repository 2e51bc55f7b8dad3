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

from grok.architectures.grok1 import Grok1
from grok.architectures.moe import run_selected
from grok.engine import compiled as passes
from grok.interventions.hooks import CompiledHook
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


KEPT = ("router.input", "attn.output", "moe.output")


@partial(
    jax.jit,
    static_argnames=("model", "dispatch"),
    compiler_options={"xla_allow_excess_precision": False},
)
def _layer(model: Grok1, params: Any, h: Any, keys: Any, cache: Any, dispatch: Any) -> Any:
    hook = CompiledHook({}, KEPT, np.int32(0), model.config.n_experts)
    h, choice, _ = model.decoder_layer(
        params, h, np.int32(0), keys, cache, dispatch=dispatch, hook=hook
    )
    return h, choice, hook.kept


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
    one = Grok1(replace(config, n_layers=1))  # models that differ in depth share what is compiled
    weights, cache = model.engine.layers, model.engine.cache(*tokens.shape)
    h = between(passes.embed_pass(one, weights.outer, tokens, model.dtype))
    resid, choices, kept = [h], [], []
    for index in order or range(len(weights.params)):
        h, choice, values = _layer(one, weights.params[index], h, tokens > 0, cache, dispatch)
        h = between(h)
        resid.append(h)
        choices.append(choice)
        kept.append(values)
    head, _ = passes.head_pass(one, weights.outer, h, 1, model.dtype, model.mesh)

    def stacked(parts: list[Any]) -> np.ndarray:
        return np.stack([np.asarray(part).astype(np.float32) for part in parts])

    return Pass(
        tokens=tokens,
        logits=np.asarray(head.logits).astype(np.float32),
        router_logits=stacked([choice.logits for choice in choices]),
        router_probs=stacked([choice.probs for choice in choices]),
        experts=stacked([choice.experts for choice in choices]).astype(int),
        gates=stacked([choice.gates for choice in choices]),
        resid=stacked([h.astype(jnp.dtype(model.dtype)) for h in resid]),
        router_input=stacked([values["router.input"] for values in kept]),
        attn_out=stacked([values["attn.output"] for values in kept]),
        moe_out=stacked([values["moe.output"] for values in kept]),
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
