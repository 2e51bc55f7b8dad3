"""A routing trace: what the routers did with every token of a text, and its `.npz` file.

Axes: layer (L), token (T), expert (E), choice (K, the experts a token was sent
to, largest gate first), candidate (C, likely next tokens, most likely first).
Traces come from the model runner, from a file it saved, or from anybody who
wrote the same arrays, so a file is checked as closely as one from a stranger.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from grok.errors import plain
from lens.errors import LensError
from lens.recipe.steps import remembered
from lens.storage.npz import Npz, Source, open_npz
from lens.traces.trace_arrays import (
    ADVICE,
    check_candidates,
    check_choices,
    check_probabilities,
    check_shape,
    floats,
    texts,
    whole_numbers,
)

FORMAT_VERSION = 1
MAX_LAYERS = 512
MAX_LAYER_ID = 2**16
SCORES = ("softmax", "sigmoid")
MAX_EXPERTS = 1024
MAX_TOKENS = 2**17
MAX_SETTINGS = 2**16
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class Trace:
    """The routing of one text, checked and read-only.

    Attributes:
        tokens: token ids.
        pieces: the text of each token.
        prompt_length: how many of the tokens were given; the rest were generated.
        router_logits: the routers' scores.
        router_probs: their softmax over all experts, or the sigmoid of each.
        experts: the experts each token was sent to, the first choice first.
        gates: their weights as applied; of Grok-1 their probabilities, not renormalised.
        candidates: ids of the likeliest next tokens, most likely first.
        candidate_probs: their probabilities.
        model_sha256: identity of the routers that were used, as a router set has it.
        candidate_pieces: text of the candidates, None if the file has none.
        settings: how the run was made; under "interventions" what was changed in it, as texts.
        layer_ids: the model's own numbers of these layers, None for 0, 1, …
        score: what router_probs are, "softmax" or "sigmoid".
        plain_gates: whether gates are router_probs of the chosen, and nothing else.
        choice_values: what the chosen are the largest of, None for router_probs.
        beside_shared: where an expert is shared by all tokens, the lengths of what the chosen ones
            and the shared one add, and the cosine between the two; else None.

    Raises:
        LensError: shapes disagree, or the numbers contradict each other.
    """

    tokens: Int[np.ndarray, " token"]
    pieces: np.ndarray
    prompt_length: int
    router_logits: Float[np.ndarray, "layer token expert"]
    router_probs: Float[np.ndarray, "layer token expert"]
    experts: Int[np.ndarray, "layer token choice"]
    gates: Float[np.ndarray, "layer token choice"]
    candidates: Int[np.ndarray, "token candidate"]
    candidate_probs: Float[np.ndarray, "token candidate"]
    model_sha256: str
    candidate_pieces: np.ndarray | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    layer_ids: Int[np.ndarray, " layer"] | None = None
    score: str = "softmax"
    plain_gates: bool = True
    choice_values: Float[np.ndarray, "layer token expert"] | None = None
    beside_shared: Float[np.ndarray, "layer token 3"] | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        settings = self.settings
        edited = isinstance(settings, dict) and bool(settings.get("interventions"))
        values: dict[str, Any] = dict(_checked_routing(self, banned=edited))
        n_tokens = values["router_logits"].shape[1]
        values |= _checked_texts(self, n_tokens)
        values |= _checked_candidates(self, n_tokens)
        values["model_sha256"] = _checked_sha256(self.model_sha256)
        if not isinstance(settings, dict):
            raise LensError(
                f"settings: found {type(settings).__name__}; expected names and values. {ADVICE}"
            )
        values |= _checked_family(self, values["router_logits"].shape)
        check_probabilities(values["router_logits"], values["router_probs"], self.score)
        check_choices(
            values["router_probs"],
            values["experts"],
            values["gates"],
            edited=edited,
            plain_gates=self.plain_gates,
            chosen_by=values["choice_values"],
        )
        check_candidates(values["candidate_probs"])
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def n_layers(self) -> int:
        return self.router_logits.shape[0]

    @property
    def n_tokens(self) -> int:
        return self.router_logits.shape[1]

    @property
    def n_experts(self) -> int:
        return self.router_logits.shape[2]

    @property
    def top_k(self) -> int:
        return self.experts.shape[2]


def _checked_routing(trace: Trace, *, banned: bool) -> dict[str, np.ndarray]:
    """Logits, probabilities, choices and gates of the routers, of shapes that agree."""
    logits = floats(
        trace.router_logits, "router_logits", 3, "[layer, token, expert]", banned=banned
    )
    n_layers, n_tokens, n_experts = logits.shape
    if not (
        1 <= n_layers <= MAX_LAYERS
        and 1 <= n_tokens <= MAX_TOKENS
        and 2 <= n_experts <= MAX_EXPERTS
    ):
        raise LensError(
            f"router_logits: the shape is {logits.shape} (layers, tokens, experts); expected 1 "
            f"to {MAX_LAYERS} layers, 1 to {MAX_TOKENS} tokens and 2 to {MAX_EXPERTS} experts. "
            "Check the order of the axes."
        )
    probs = floats(trace.router_probs, "router_probs", 3, "[layer, token, expert]")
    check_shape(probs, "router_probs", logits.shape)
    experts = whole_numbers(trace.experts, "experts", 3, "[layer, token, choice]", n_experts)
    top_k = experts.shape[2]
    check_shape(experts, "experts", (n_layers, n_tokens, top_k))
    if not 1 <= top_k <= n_experts:
        raise LensError(f"experts: {top_k} choices a token; expected 1 to {n_experts}. {ADVICE}")
    gates = floats(trace.gates, "gates", 3, "[layer, token, choice]")
    check_shape(gates, "gates", experts.shape)
    return {"router_logits": logits, "router_probs": probs, "experts": experts, "gates": gates}


def _checked_family(trace: Trace, shape: tuple[int, int, int]) -> dict[str, Any]:
    """What a trace says of its model's family: numbers of layers, scores, values of the choice."""
    if trace.score not in SCORES:
        raise LensError(
            f"score: found '{plain(str(trace.score), 40)}'; expected {' or '.join(SCORES)}. "
            f"{ADVICE}"
        )
    ids, chosen_by = trace.layer_ids, trace.choice_values
    if ids is not None:
        ids = whole_numbers(ids, "layer_ids", 1, "[layer]", MAX_LAYER_ID)
        check_shape(ids, "layer_ids", shape[:1])
        if (np.diff(ids) <= 0).any():
            raise LensError(f"layer_ids: {str(ids.tolist())[:80]}; expected rising numbers.")
    if chosen_by is not None:
        chosen_by = floats(chosen_by, "choice_values", 3, "[layer, token, expert]", banned=True)
        check_shape(chosen_by, "choice_values", shape)
    beside = trace.beside_shared
    if beside is not None:
        beside = floats(beside, "beside_shared", 3, "[layer, token, 3]")
        check_shape(beside, "beside_shared", (*shape[:2], 3))
        if (beside[..., :2] < 0).any() or (np.abs(beside[..., 2]) > 1 + 1e-3).any():
            raise LensError(
                "beside_shared: lengths below 0, or cosines beyond 1; expected two lengths and a "
                f"cosine of each token. {ADVICE}"
            )
    return {"layer_ids": ids, "choice_values": chosen_by, "beside_shared": beside}


def _checked_texts(trace: Trace, n_tokens: int) -> dict[str, Any]:
    """Tokens, their pieces, and how many of them were given."""
    tokens = whole_numbers(trace.tokens, "tokens", 1, "[token]", 2**31)
    check_shape(tokens, "tokens", (n_tokens,))
    pieces = texts(trace.pieces, "pieces")
    check_shape(pieces, "pieces", (n_tokens,))
    prompt_length = int(trace.prompt_length)
    if not 1 <= prompt_length <= n_tokens:
        raise LensError(
            f"prompt_length: found {prompt_length} with {n_tokens} tokens; expected 1 to "
            f"{n_tokens}. {ADVICE}"
        )
    return {"tokens": tokens, "pieces": pieces, "prompt_length": prompt_length}


def _checked_candidates(trace: Trace, n_tokens: int) -> dict[str, np.ndarray | None]:
    """Likely next tokens, their probabilities and, where there are, their pieces."""
    candidates = whole_numbers(trace.candidates, "candidates", 2, "[token, candidate]", 2**31)
    check_shape(candidates, "candidates", (n_tokens, candidates.shape[1]))
    probs = floats(trace.candidate_probs, "candidate_probs", 2, "[token, candidate]")
    check_shape(probs, "candidate_probs", candidates.shape)
    pieces = trace.candidate_pieces
    if pieces is not None:
        pieces = texts(pieces, "candidate_pieces")
        check_shape(pieces, "candidate_pieces", candidates.shape)
    return {"candidates": candidates, "candidate_probs": probs, "candidate_pieces": pieces}


def _checked_sha256(found: object) -> str:
    sha256 = str(found).lower()
    if not _SHA256.fullmatch(sha256):
        raise LensError(
            f"model_sha256: found '{plain(sha256, 20)}'; expected 64 hexadecimal digits. {ADVICE}"
        )
    return sha256


@remembered
def load_trace(source: Source) -> Trace:
    """The trace in an `.npz`, at a path or in a binary file.

    Nothing in the file is executed, and no size it declares is believed before
    it was checked. `candidate_pieces`, `settings` and `format_version` may be absent.

    Raises:
        LensError: saying where, what was found, what was expected, what to do.
    """
    with open_npz(source) as npz:
        try:
            return _from_npz(npz)
        except LensError as error:
            text = str(error)
            if text.startswith(npz.where):
                raise
            raise LensError(f"{npz.where}: {text}") from error


def _from_npz(npz: Npz) -> Trace:
    version = npz.scalar("format_version", "iu", ADVICE, FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise LensError(
            f"format_version: found {version}; this version reads {FORMAT_VERSION}. "
            "Update the project, or save the trace again with this version."
        )
    arrays: dict[str, Any] = {
        name: npz.array(name, ADVICE)
        for name in (
            "router_logits",
            "router_probs",
            "experts",
            "gates",
            "tokens",
            "pieces",
            "candidates",
            "candidate_probs",
        )
    }
    if "candidate_pieces" in npz:
        arrays["candidate_pieces"] = npz.array("candidate_pieces", ADVICE)
    for name in ("layer_ids", "choice_values", "beside_shared"):
        if name in npz:
            arrays[name] = npz.array(name, ADVICE)
    return Trace(
        **arrays,
        score=npz.scalar("score", "U", ADVICE, "softmax"),
        plain_gates=bool(npz.scalar("plain_gates", "iu", ADVICE, 1)),
        prompt_length=npz.scalar("prompt_length", "iu", ADVICE),
        model_sha256=npz.scalar("model_sha256", "U", ADVICE),
        settings=_settings(npz.scalar("settings", "U", ADVICE, "{}")),
    )


def _settings(text: str) -> dict[str, Any]:
    def refuse(name: str) -> Any:
        raise ValueError(name)

    if len(text) > MAX_SETTINGS:
        raise LensError(
            f"settings: {len(text):,} characters; at most {MAX_SETTINGS:,} are read. {ADVICE}"
        )
    try:
        found = json.loads(text, parse_constant=refuse)
        json.dumps(found, ensure_ascii=False).encode()  # refuses halves of surrogate pairs
    except (ValueError, RecursionError) as error:
        raise LensError(
            f"settings: the text is not JSON ('{plain(text, 40)}'…); expected an object such as "
            f'{{"dtype": "bfloat16"}}. {ADVICE}'
        ) from error
    if not isinstance(found, dict):
        raise LensError(
            f"settings: the JSON text holds a {type(found).__name__}; expected an object. {ADVICE}"
        )
    return found
