"""The calls of the model's server, in one table: what each takes, does and gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from grok.errors import PromptError
from grok.serving.remote.bodies import Body, BodyError, Call, Limits, Schema, Told

if TYPE_CHECKING:
    from grok.interventions.edits import Edits
    from grok.runner.results import Step
    from grok.serving.shared_model import SharedModel

MOST_PROMPTS = 64  # of one call
MOST_ROWS = 256  # of one pass
MOST_PADDED = 2**16  # tokens of one pass, with what fills rows up
MOST_EDITS = 64
MOST_CANDIDATES = 1024

IDS: Schema = {
    "type": "array",
    "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
    "maxItems": 300_000,
    "description": "token ids",
}
PROMPT: Schema = {
    "anyOf": [{"type": "string", "maxLength": 1_000_000}, IDS],
    "description": "a text, or token ids",
}
NUMBER: Schema = {"description": "a number, or nested lists of numbers; infinite ones as texts"}
CHANGE: dict[str, Schema] = {
    "kind": {"type": "string", "description": "a name in grok.interventions, such as ban"},
    "arguments": {"type": "array", "items": NUMBER, "maxItems": 4},
    "parts": {"type": "array", "items": {"$ref": "#/$defs/change"}, "maxItems": 16},
}
EDITS: Schema = {
    "type": "array",
    "maxItems": MOST_EDITS,
    "items": {"$ref": "#/$defs/edit"},
    "description": "interventions, in order",
}
DEFINITIONS: Schema = {
    "change": {
        "type": "object",
        "properties": CHANGE,
        "required": ["kind"],
        "additionalProperties": False,
    },
    "edit": {
        "type": "object",
        "properties": {
            **CHANGE,
            "site": {"type": "string", "description": "such as router.logits"},
            "layers": {"type": "array", "items": {"type": "integer"}, "maxItems": 4096},
            "positions": {
                "anyOf": [
                    {"type": "array", "items": {"type": "integer"}, "maxItems": 300_000},
                    {
                        "type": "object",
                        "properties": {
                            "start": {"type": ["integer", "null"]},
                            "stop": {"type": ["integer", "null"]},
                        },
                        "additionalProperties": False,
                    },
                ],
                "description": "tokens, or {start, stop}; all when absent",
            },
        },
        "required": ["site", "kind"],
        "additionalProperties": False,
    },
}
CANDIDATES: Schema = {
    "type": "integer",
    "minimum": 1,
    "maximum": MOST_CANDIDATES,
    "default": 10,
    "description": "next tokens that are listed",
}
METRIC: Schema = {
    "type": "object",
    "properties": {
        "name": {"enum": ["kl_divergence", "probability", "logit_difference"]},
        "tokens": {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": 2},
        "everywhere": {"type": "boolean"},
    },
    "required": ["name"],
    "additionalProperties": False,
    "description": "the number that is taken of each run",
}
NUMBERS: Schema = {"type": "array", "items": {"type": "integer"}, "maxItems": 300_000}


# --- the work ---------------------------------------------------------------------------


def _tokens(model: SharedModel, prompt: Any, limits: Limits) -> np.ndarray:
    tokens = model.encode(prompt)
    if limits.prompt_tokens is not None and tokens.size > limits.prompt_tokens:
        raise PromptError(
            f"The prompt has {tokens.size:,} tokens; at most {limits.prompt_tokens:,} are run "
            "here. Shorten it."
        )
    return tokens


def _plan(model: SharedModel, body: Body, told: Told, limits: Limits) -> Any:
    return asdict(model.plan(body["tokens"]))


def _edits(data: Any) -> Edits:
    from grok.interventions.plain import edits_of

    return edits_of(data)


def _encode(model: SharedModel, body: Body, told: Told, limits: Limits) -> Any:
    tokens = model.encode(body["prompt"])
    return {"tokens": tokens.tolist(), "pieces": model.pieces(tokens)}


def _chat(model: SharedModel, body: Body, told: Told, limits: Limits) -> Any:
    return {"prompt": model.chat_prompt(body["text"])}


def _pieces(model: SharedModel, body: Body, told: Told, limits: Limits) -> Any:
    tokens = np.array(body["tokens"], np.int32)
    if tokens.size and tokens.max() >= model.config.vocab_size:
        raise PromptError(
            f"Token id {tokens.max()} is not in the vocabulary of {model.config.vocab_size}."
        )
    pieces = model.pieces(tokens, apart=body.get("apart", False))
    return {"pieces": pieces, "text": model.text(tokens)}


def _trace(model: SharedModel, body: Body, told: Told, limits: Limits) -> Any:
    options = {"edits": _edits(body["edits"])} if body.get("edits") else {}
    tokens = _tokens(model, body["prompt"], limits)
    return model.trace(
        tokens, on_wait=told.waiting, candidates=body.get("candidates", 10), **options
    )


def _trace_all(model: SharedModel, body: Body, told: Told, limits: Limits) -> Any:
    tokens = [_tokens(model, one, limits) for one in body["prompts"]]
    return model.trace_all(tokens, on_wait=told.waiting, candidates=body.get("candidates", 10))


def _what_ifs(model: SharedModel, body: Body, told: Told, limits: Limits) -> Any:
    tokens = _tokens(model, body["prompt"], limits)
    edits = [_edits(one) for one in body["edits"]]
    return model.what_ifs(
        tokens, edits, on_wait=told.waiting, candidates=body.get("candidates", 10)
    )


def _logit_lens(model: SharedModel, body: Body, told: Told, limits: Limits) -> Any:
    tokens = _tokens(model, body["prompt"], limits)
    return model.logit_lens(tokens, on_wait=told.waiting, candidates=body.get("candidates", 10))


def _options(body: Body, *names: str) -> dict[str, Any]:
    from grok.experiments.metrics import metric_of

    found = {name: body[name] for name in names if body.get(name) is not None}
    if "metric" in found:
        found["metric"] = metric_of(found["metric"])
    return found


def _ablation_sweep(model: SharedModel, body: Body, told: Told, limits: Limits) -> Any:
    tokens = _tokens(model, body["prompt"], limits)
    options = _options(body, "metric", "how", "layers")
    return model.ablation_sweep(tokens, on_wait=told.waiting, progress=told.progress, **options)


def _patch_sweep(model: SharedModel, body: Body, told: Told, limits: Limits) -> Any:
    pair = [_tokens(model, body[name], limits) for name in ("clean", "corrupt")]
    options = _options(body, "metric", "sites", "layers", "positions", "seed")
    return model.patch_sweep(*pair, on_wait=told.waiting, progress=told.progress, **options)


SAMPLING = ("max_new_tokens", "temperature", "top_p", "seed", "candidates")


def _stream(model: SharedModel, body: Body, told: Told, limits: Limits) -> Any:
    tokens = _tokens(model, body["prompt"], limits)
    options = _options(body, *SAMPLING)
    if body.get("edits"):
        options["edits"] = _edits(body["edits"])
    made = 0
    steps: Iterator[Step] = model.stream(tokens, on_wait=told.waiting, **options)
    for step in islice(steps, body["max_new_tokens"]):
        # Logits of all tokens would be most of what is sent, and the trace does not hold them.
        routing = step.routing._replace(logits=step.routing.logits[..., :0], kept={})
        told.step(step._replace(routing=routing))
        made += 1
    return {"tokens": made}


def _forward(model: SharedModel, body: Body, told: Told, limits: Limits) -> Any:
    from grok.engine.compiled import bucket

    size = len(body["rows"]) * bucket(max(map(len, body["rows"])))
    if size > MOST_PADDED:
        found = f"rows of {size} tokens in all, each padded to the longest one's power of two"
        raise BodyError("body.rows", found, f"at most {MOST_PADDED} tokens, or several calls")
    return model.read_rows([_tokens(model, one, limits) for one in body["rows"]], told.waiting)


CALLS: Mapping[str, Call] = {
    "encode": Call(
        "Token ids and pieces of a prompt.",
        {"prompt": PROMPT},
        ("prompt",),
        "{tokens, pieces}",
        _encode,
        quick=True,
    ),
    "chat": Call(
        "A message of a user as the text that the model was taught, by its chat template.",
        {"text": {"type": "string", "maxLength": 1_000_000, "description": "a text"}},
        ("text",),
        "{prompt}",
        _chat,
        quick=True,
    ),
    "pieces": Call(
        "Pieces and text of token ids.",
        {
            "tokens": IDS,
            "apart": {"type": "boolean", "description": "pieces of each id by itself, no text's"},
        },
        ("tokens",),
        "{pieces, text}",
        _pieces,
        quick=True,
    ),
    "plan": Call(
        "An estimate of what a pass over so many tokens takes here; times where they are measured.",
        {
            "tokens": {
                "type": "integer",
                "minimum": 1,
                "maximum": 300_000,
                "description": "tokens of the prompt, at least 1",
            }
        },
        ("tokens",),
        "bytes of memory and from disk, seconds, of a pass and of each token after it",
        _plan,
        quick=True,
    ),
    "trace": Call(
        "The routing of a prompt.",
        {"prompt": PROMPT, "candidates": CANDIDATES, "edits": EDITS},
        ("prompt",),
        "a trace file, which the explorer opens",
        _trace,
        definitions=DEFINITIONS,
    ),
    "trace_all": Call(
        "The routing of several prompts, with whatever else waits in as few passes as can be.",
        {
            "prompts": {
                "type": "array",
                "items": PROMPT,
                "minItems": 1,
                "maxItems": MOST_PROMPTS,
                "description": f"1 to {MOST_PROMPTS} prompts",
            },
            "candidates": CANDIDATES,
        },
        ("prompts",),
        "a list of RoutingTrace",
        _trace_all,
    ),
    "what_ifs": Call(
        "A prompt as it is and under each of several changes apart.",
        {
            "prompt": PROMPT,
            "edits": {"type": "array", "items": EDITS, "minItems": 1, "maxItems": MOST_EDITS},
            "candidates": CANDIDATES,
        },
        ("prompt", "edits"),
        "a list of WhatIf",
        _what_ifs,
        definitions=DEFINITIONS,
    ),
    "logit_lens": Call(
        "Next tokens that the residual stream after each layer stands for.",
        {"prompt": PROMPT, "candidates": CANDIDATES},
        ("prompt",),
        "a LogitLens",
        _logit_lens,
    ),
    "ablation_sweep": Call(
        "Each expert of each layer banned or given to all tokens, one at a time.",
        {
            "prompt": PROMPT,
            "metric": METRIC,
            "how": {"enum": ["ban", "include"]},
            "layers": NUMBERS,
        },
        ("prompt",),
        "an AblationSweep",
        _ablation_sweep,
    ),
    "patch_sweep": Call(
        "Values of one prompt's run put into another's, one at a time.",
        {
            "clean": PROMPT,
            "corrupt": PROMPT,
            "metric": METRIC,
            "sites": {"type": "array", "items": {"type": "string"}, "maxItems": 16},
            "layers": NUMBERS,
            "positions": NUMBERS,
            "seed": {"type": "integer", "minimum": 0},
        },
        ("clean", "corrupt", "metric"),
        "a PatchSweep",
        _patch_sweep,
    ),
    "stream": Call(
        "A continuation, a step event for each token.",
        {
            "prompt": PROMPT,
            "max_new_tokens": {"type": "integer", "minimum": 1, "description": "at least 1"},
            "temperature": {"type": "number", "minimum": 0, "default": 0},
            "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "default": 1},
            "seed": {"type": "integer", "minimum": 0, "default": 0},
            "candidates": CANDIDATES,
            "edits": EDITS,
        },
        ("prompt", "max_new_tokens"),
        "{tokens}, their number; each step event holds a Step",
        _stream,
        definitions=DEFINITIONS,
    ),
    "forward": Call(
        "The routing of prompts padded to one length, in one pass, without next tokens.",
        {"rows": {"type": "array", "items": IDS, "minItems": 1, "maxItems": MOST_ROWS}},
        ("rows",),
        "a Forward",
        _forward,
    ),
}
