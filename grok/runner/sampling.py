"""Choosing the next token from logits."""

from __future__ import annotations

import numpy as np

from grok.errors import PromptError


def check_sampling(temperature: float, top_p: float, seed: int) -> None:
    """Refuses settings no distribution has.

    Raises:
        PromptError: temperature is negative or not finite, top_p is not in (0, 1], or the
            seed is negative.
    """
    if not (np.isfinite(temperature) and temperature >= 0):
        raise PromptError(f"temperature is {temperature}; expected 0 (greedy) or more.")
    if not 0 < top_p <= 1:
        raise PromptError(f"top_p is {top_p}; expected more than 0 and at most 1.")
    if seed < 0:
        raise PromptError(f"seed is {seed}; expected 0 or more.")


def next_token(
    logits: np.ndarray, temperature: float, top_p: float, rng: np.random.Generator
) -> int:
    """One token id drawn from logits [V].

    Temperature 0 takes the largest logit, of ties the first. Otherwise softmax of
    logits / temperature, cut to the smallest set of most probable tokens that holds `top_p`.
    """
    if temperature == 0:
        return int(np.argmax(logits))
    scaled = logits.astype(np.float64)
    scaled = (scaled - scaled.max()) / temperature
    probs = np.exp(scaled)
    probs /= probs.sum()
    if top_p < 1:
        order = np.argsort(-probs, kind="stable")
        before = np.cumsum(probs[order]) - probs[order]
        probs[order[before >= top_p]] = 0
        probs /= probs.sum()
    return int(rng.choice(len(probs), p=probs))
