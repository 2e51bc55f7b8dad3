"""Renders one chat template in a process of its own; started by `template.py`, never imported.

Reads {"template", "values", "most"} as JSON from standard input and writes {"text"} or {"error"}.
The template comes from strangers: it runs in Jinja's immutable sandbox, and this process has little
processor time and memory and may write no file.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from typing import Any, NoReturn

SECONDS = 1
MEMORY = 2**29


def limit() -> None:
    """Bounds this process, where the system can."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # nor leave an empty dump where it ends


def refuse(message: str) -> NoReturn:
    """What templates call where they cannot take the messages."""
    from jinja2.exceptions import TemplateError

    raise TemplateError(str(message))


def as_json(value: Any, **options: Any) -> str:
    """The filter `tojson`, without HTML's escapes."""
    known = {name: options[name] for name in ("indent", "separators") if name in options}
    return json.dumps(value, ensure_ascii=False, **known)


def rendered(template: str, values: dict[str, Any], most: int) -> str:
    """The text that a template makes of its values.

    Raises:
        ValueError: it has more characters than are taken.
        Exception: whatever the template raises.
    """
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = as_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    parts, size = [], 0
    for part in environment.from_string(template).generate(**values):
        size += len(part)
        if size > most:
            raise ValueError(f"it makes more than {most:,} characters")
        parts.append(part)
    return "".join(parts)


def main() -> None:
    """One template."""
    asked = json.load(sys.stdin)
    limit()
    try:
        answer = {"text": rendered(asked["template"], asked["values"], asked["most"])}
    except MemoryError:
        answer = {"error": "it takes more memory than it may have"}
    except BaseException as error:  # whatever a template can raise
        answer = {"error": f"{type(error).__name__}: {error}"[:300]}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
