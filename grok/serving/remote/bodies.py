"""What a call of the model's server is: its body checked, its work, its part of the document.

A call takes a JSON object. Quick calls answer with one; runs answer with events, a JSON object a
line, of which the last is the result or an error, or with the result alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from grok.errors import PromptError

if TYPE_CHECKING:
    from grok.engine.progress import PassProgress
    from grok.runner.results import Step
    from grok.serving.queue import Waiting
    from grok.serving.shared_model import SharedModel

VERSION = "1"
Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Limits:
    """What one call may ask for.

    Attributes:
        prompt_tokens: of one prompt; None: the model's context.
        body_bytes: of the JSON object.
    """

    prompt_tokens: int | None = None
    body_bytes: int = 2**22


@dataclass(frozen=True)
class Told:
    """What a run tells while it goes on; each ends it by raising."""

    waiting: Callable[[Waiting], object]
    progress: Callable[[int, int], object]
    layers: Callable[[PassProgress], object]
    step: Callable[[Step], object]


Body = Mapping[str, Any]
Work = Callable[["SharedModel", Body, Told, Limits], Any]


class BodyError(PromptError):
    """A body that is not what the call takes.

    Attributes:
        where, found, expected: in it.
    """

    def __init__(self, where: str, found: str, expected: str) -> None:
        super().__init__(f"{where}: found {found}; expected {expected}.")
        self.where, self.found, self.expected = where, found, expected


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        summary: of what it gives.
        properties: of its body.
        required: those that must be there.
        result: what the answer holds.
        work: does it.
        quick: it runs nothing and answers with a JSON object.
        definitions: that the properties refer to.
    """

    summary: str
    properties: Mapping[str, Schema]
    required: tuple[str, ...]
    result: str
    work: Work
    quick: bool = False
    definitions: Mapping[str, Schema] = field(default_factory=dict)

    @property
    def schema(self) -> Schema:
        """JSON Schema of its body."""
        return {
            "type": "object",
            "properties": dict(self.properties),
            "required": list(self.required),
            "additionalProperties": False,
            **({"$defs": dict(self.definitions)} if self.definitions else {}),
        }

    @cached_property
    def _validator(self) -> Draft202012Validator:
        return Draft202012Validator(self.schema)

    def check(self, body: Any) -> Body:
        """The body, where it fits.

        Raises:
            BodyError: it doesn't; the text repeats nothing that somebody typed.
        """
        try:
            fault = best_match(self._validator.iter_errors(body))
        except RecursionError as error:
            raise BodyError("body", "lists in lists without end", "a few levels") from error
        if fault is None:
            return body
        where = ".".join(["body", *map(str, fault.absolute_path)])
        raise BodyError(where, _shape_of(fault.instance), _expected(fault))


def _shape_of(value: Any) -> str:
    if isinstance(value, str):
        return f"a text of {len(value)} characters"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)} properties"
    said = "nothing" if value is None else f"{value}"
    return said if len(said) <= 40 else f"a number of {len(said)} characters"


def _expected(fault: Any) -> str:
    said = {
        "required": f"the properties {', '.join(fault.schema.get('required', []))}",
        "additionalProperties": f"only {', '.join(fault.schema.get('properties', {}))}",
        "maxItems": f"at most {fault.validator_value}",
        "maxLength": f"at most {fault.validator_value} characters",
        "minimum": f"at least {fault.validator_value}",
        "maximum": f"at most {fault.validator_value}",
        "enum": f"one of {fault.validator_value}",
    }
    usual = fault.schema.get("description") or f"{fault.validator} {fault.validator_value}"
    return said.get(fault.validator, str(usual))


# --- the document -----------------------------------------------------------------------

EVENTS = (
    "A JSON object a line: {event: waiting, place, seconds}, {event: progress, done, total}, "
    "{event: layers, …} of a model that is streamed, {event: step, npz}, {event: alive}, and last "
    "{event: result, npz} or {event: error, error}. npz is base64."
)
ERROR: Schema = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {
                name: {"type": "string"}
                for name in ("type", "message", "where", "found", "expected", "do", "request")
            }
            | {"retry_after": {"type": ["number", "null"]}},
        }
    },
}


def document(calls: Mapping[str, Call]) -> dict[str, Any]:
    """The OpenAPI document of calls, from what checks their bodies."""
    paths = {f"/v1/{name}": {"post": _operation(name, call)} for name, call in calls.items()}
    about = {"summary": "The model's sizes, dtype and limits.", "operationId": "model"}
    cancel = {
        "summary": "End a run by the id in its answer's X-Request-Id.",
        "operationId": "cancel",
        "parameters": [
            {"name": "request", "in": "path", "required": True, "schema": {"type": "string"}}
        ],
    }
    empty = {"responses": {"200": {"description": "A JSON object."}, "default": _failed()}}
    paths["/v1/model"] = {"get": about | empty}
    paths["/v1/requests/{request}"] = {"delete": cancel | empty}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Grok MoE Lens: a model and its routing", "version": VERSION},
        "components": {
            "schemas": {"error": ERROR},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
        "paths": paths,
    }


def _operation(name: str, call: Call) -> dict[str, Any]:
    if call.quick:
        content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    else:
        content = {
            "application/x-ndjson": {"schema": {"type": "string", "description": EVENTS}},
            "application/x-npz": {"schema": {"type": "string", "format": "binary"}},
        }
    return {
        "operationId": name,
        "summary": call.summary,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$id": f"body-{name}", **call.schema}}},
        },
        "responses": {
            "200": {"description": f"The result is {call.result}.", "content": content},
            "default": _failed(),
        },
    }


def _failed() -> dict[str, Any]:
    reference = {"$ref": "#/components/schemas/error"}
    return {"description": "Why not.", "content": {"application/json": {"schema": reference}}}
