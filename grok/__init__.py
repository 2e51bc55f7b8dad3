"""Mixture-of-Experts models in JAX, Grok-1 first: files, architectures, runs.

Importing this package needs no JAX; `load` imports the runner when it is called.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from grok.config import BUNDLED_MODEL, GROK_1, GrokConfig
from grok.errors import GrokError

if TYPE_CHECKING:
    from grok.runner.model import Model
    from grok.trace import RoutingTrace

__all__ = [
    "BUNDLED_MODEL",
    "GROK_1",
    "GrokConfig",
    "GrokError",
    "continued",
    "load",
    "trace_prompt",
]


def load(path: str | os.PathLike[str] | None = None, **options: Any) -> Model:
    """A model ready to trace and generate; see `grok.runner.loading.load`."""
    from grok.runner.loading import load as load_model

    return load_model(path, **options)


def trace_prompt(
    path: str | os.PathLike[str] | None, prompt: str | Sequence[int], dtype: str = "bfloat16"
) -> RoutingTrace:
    """The routing of a text, or of token ids, by the model of a checkpoint."""
    return load(path, dtype=dtype).trace_routing(prompt)


def continued(
    path: str | os.PathLike[str] | None,
    prompt: str | Sequence[int],
    dtype: str = "bfloat16",
    **options: Any,
) -> RoutingTrace:
    """The routing of a text and of its continuation by the model of a checkpoint.

    Args:
        path: of the checkpoint; None is the bundled one.
        prompt: a text, or token ids.
        dtype: of the activations.
        options: of the model's `generate`: how many tokens, temperature, seed.
    """
    return load(path, dtype=dtype).generate(prompt, **options).trace
