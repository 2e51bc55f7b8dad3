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
from lens.storage.npz import Npz, Source, open_npz

FORMAT_VERSION = 1
MAX_LAYERS = 512
MAX_EXPERTS = 1024
MAX_TOKENS = 2**17
MAX_PIECE = 1024
MAX_SETTINGS = 2**16
ADVICE = "Save the trace again with `python -m grok.run --trace`."
# How far stored numbers may disagree: above the rounding of bfloat16, below any real mistake.
TOLERANCE = 0.01
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class Trace:
    """The routing of one text, checked and read-only.

    Attributes:
        tokens: token ids.
        pieces: the text of each token.
        prompt_length: how many of the tokens were given; the rest were generated.
        router_logits: the routers' scores.
        router_probs: their softmax over all experts.
        experts: the experts each token was sent to, largest gate first.
        gates: their probabilities, not renormalised over the choices.
        candidates: ids of the likeliest next tokens, most likely first.
        candidate_probs: their probabilities.
        model_sha256: identity of the routers that were used, as a router set has it.
        candidate_pieces: text of the candidates, None if the file has none.
        settings: how the run was made; under "interventions" what was changed in it, as texts.

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
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        edited = isinstance(self.settings, dict) and bool(self.settings.get("interventions"))
        logits = _floats(
            self.router_logits, "router_logits", 3, "[layer, token, expert]", banned=edited
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
        probs = _floats(self.router_probs, "router_probs", 3, "[layer, token, expert]")
        _agree(probs, "router_probs", logits.shape)
        experts = _whole(self.experts, "experts", 3, "[layer, token, choice]", n_experts)
        top_k = experts.shape[2]
        _agree(experts, "experts", (n_layers, n_tokens, top_k))
        if not 1 <= top_k <= n_experts:
            raise LensError(
                f"experts: {top_k} choices a token; expected 1 to {n_experts}. {ADVICE}"
            )
        gates = _floats(self.gates, "gates", 3, "[layer, token, choice]")
        _agree(gates, "gates", experts.shape)
        tokens = _whole(self.tokens, "tokens", 1, "[token]", 2**31)
        _agree(tokens, "tokens", (n_tokens,))
        pieces = _texts(self.pieces, "pieces")
        _agree(pieces, "pieces", (n_tokens,))
        candidates = _whole(self.candidates, "candidates", 2, "[token, candidate]", 2**31)
        _agree(candidates, "candidates", (n_tokens, candidates.shape[1]))
        candidate_probs = _floats(self.candidate_probs, "candidate_probs", 2, "[token, candidate]")
        _agree(candidate_probs, "candidate_probs", candidates.shape)
        candidate_pieces = self.candidate_pieces
        if candidate_pieces is not None:
            candidate_pieces = _texts(candidate_pieces, "candidate_pieces")
            _agree(candidate_pieces, "candidate_pieces", candidates.shape)
        prompt_length = int(self.prompt_length)
        if not 1 <= prompt_length <= n_tokens:
            raise LensError(
                f"prompt_length: found {prompt_length} with {n_tokens} tokens; expected 1 to "
                f"{n_tokens}. {ADVICE}"
            )
        sha256 = str(self.model_sha256).lower()
        if not _SHA256.fullmatch(sha256):
            raise LensError(
                f"model_sha256: found '{plain(sha256, 20)}'; expected 64 hexadecimal digits. "
                f"{ADVICE}"
            )
        if not isinstance(self.settings, dict):
            raise LensError(
                f"settings: found {type(self.settings).__name__}; expected names and values. "
                f"{ADVICE}"
            )
        _check_probabilities(logits, probs)
        _check_choices(probs, experts, gates, edited=edited)
        _check_candidates(candidate_probs)
        values: dict[str, Any] = {
            "tokens": tokens,
            "pieces": pieces,
            "prompt_length": prompt_length,
            "router_logits": logits,
            "router_probs": probs,
            "experts": experts,
            "gates": gates,
            "candidates": candidates,
            "candidate_probs": candidate_probs,
            "candidate_pieces": candidate_pieces,
            "model_sha256": sha256,
        }
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
    return Trace(
        **arrays,
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


def _floats(array: Any, name: str, rank: int, axes: str, *, banned: bool = False) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind != "f" or array.ndim != rank:
        raise LensError(
            f"{name}: found shape {array.shape} of {array.dtype}; expected {axes} of float32. "
            f"{ADVICE}"
        )
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32).view()
    bad = ~np.isfinite(array)
    if banned:  # the logit of an expert that nobody may choose
        bad &= ~np.isneginf(array)
    if bad.any():
        raise LensError(
            f"{name}: {int(bad.sum())} of {array.size} values are not finite, the first at index "
            f"{_first(bad)}; expected numbers only. {ADVICE}"
        )
    array.flags.writeable = False
    return array


def _whole(array: Any, name: str, rank: int, axes: str, limit: int) -> np.ndarray:
    array = np.asarray(array)
    if array.dtype.kind not in "iu" or array.ndim != rank:
        raise LensError(
            f"{name}: found shape {array.shape} of {array.dtype}; expected {axes} of int32. "
            f"{ADVICE}"
        )
    bad = (array < 0) | (array >= limit)
    if bad.any():
        at = _first(bad)
        raise LensError(
            f"{name}: found {array[at]} at index {at}; expected whole numbers from 0 to "
            f"{limit - 1}. {ADVICE}"
        )
    array = np.ascontiguousarray(array, dtype=np.int32).view()
    array.flags.writeable = False
    return array


def _texts(array: Any, name: str) -> np.ndarray:
    """A read-only unicode array of texts of bounded length."""
    array = np.asarray(array)
    if array.dtype.kind != "U":
        raise LensError(
            f"{name}: the dtype is {array.dtype}; expected unicode texts, not objects. {ADVICE}"
        )
    if array.dtype.itemsize > 4 * MAX_PIECE:
        raise LensError(
            f"{name}: texts of up to {array.dtype.itemsize // 4} characters; at most {MAX_PIECE} "
            f"are read. {ADVICE}"
        )
    array = np.array(array, order="C")
    array.flags.writeable = False
    return array


def _agree(array: np.ndarray, name: str, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise LensError(
            f"{name}: the shape is {array.shape}; the other arrays need {shape}. {ADVICE}"
        )


def _first(bad: Any) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(bad)[0])


def _check_probabilities(logits: np.ndarray, probs: np.ndarray) -> None:
    """Refuse probabilities that are not the softmax of the logits beside them."""
    outside = (probs < 0) | (probs > 1 + TOLERANCE)
    if outside.any():
        at = _first(outside)
        raise LensError(
            f"router_probs: found {probs[at]:.4g} at index {at}; expected probabilities. {ADVICE}"
        )
    total = probs.sum(axis=-1)
    wrong = np.abs(total - 1) > TOLERANCE
    if wrong.any():
        at = _first(wrong)
        raise LensError(
            f"router_probs: layer row {at[0]}, token {at[1]}: they sum to {total[at]:.4g}; "
            f"expected 1. {ADVICE}"
        )
    softmax = np.exp(logits - logits.max(axis=-1, keepdims=True))
    softmax /= softmax.sum(axis=-1, keepdims=True)
    wrong = (np.abs(softmax - probs) > TOLERANCE).any(axis=-1)
    if wrong.any():
        at = _first(wrong)
        raise LensError(
            f"router_probs: layer row {at[0]}, token {at[1]}: they are not the softmax of "
            f"router_logits. {ADVICE}"
        )


def _check_choices(
    probs: np.ndarray, experts: np.ndarray, gates: np.ndarray, *, edited: bool
) -> None:
    """Refuse chosen experts that are not the likeliest, or gates of other experts.

    An intervention may put any experts and gates; then they only have to be different ones.
    """
    ordered = np.sort(experts, axis=-1)
    twice = (ordered[..., 1:] == ordered[..., :-1]).any(axis=-1)
    if twice.any():
        at = _first(twice)
        raise LensError(
            f"experts: layer row {at[0]}, token {at[1]}: found {experts[at].tolist()}; expected "
            f"different experts. {ADVICE}"
        )
    if edited:
        return
    rising = (gates[..., 1:] > gates[..., :-1]).any(axis=-1)
    if rising.any():
        at = _first(rising)
        raise LensError(
            f"gates: layer row {at[0]}, token {at[1]}: found {gates[at].tolist()}; expected the "
            f"largest first. {ADVICE}"
        )
    wrong = (np.abs(np.take_along_axis(probs, experts, axis=-1) - gates) > TOLERANCE).any(axis=-1)
    if wrong.any():
        at = _first(wrong)
        raise LensError(
            f"gates: layer row {at[0]}, token {at[1]}: they differ from the probabilities of the "
            f"chosen experts {experts[at].tolist()}. {ADVICE}"
        )
    rest = probs.copy()
    np.put_along_axis(rest, experts, 0, axis=-1)
    wrong = (rest > gates[..., -1:] + TOLERANCE).any(axis=-1)
    if wrong.any():
        at = _first(wrong)
        raise LensError(
            f"experts: layer row {at[0]}, token {at[1]}: {experts[at].tolist()} are not the "
            f"likeliest experts. {ADVICE}"
        )


def _check_candidates(probs: np.ndarray) -> None:
    if probs.size == 0:
        return
    outside = (probs < 0) | (probs > 1 + TOLERANCE)
    outside[:, 1:] |= probs[:, 1:] > probs[:, :-1]
    outside[:, -1] |= probs.sum(axis=1) > 1 + TOLERANCE
    if outside.any():
        token = _first(outside)[0]
        raise LensError(
            f"candidate_probs: token {token}: found {str(probs[token].tolist())[:120]}; expected "
            f"probabilities, the largest first, with a sum of at most 1. {ADVICE}"
        )
