"""Routed texts made up for tests of their statistics."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np


def routed(experts, n_experts=8, logits=None, prompt_length=None):
    """A trace of which only the routing matters: `experts` is [layer, token, choice]."""
    experts = np.asarray(experts)
    n_layers, n_tokens, top_k = experts.shape
    if logits is None:
        logits = np.zeros((n_layers, n_tokens, n_experts), np.float32)
        scores = np.linspace(2, 1, top_k, dtype=np.float32) * np.ones(experts.shape, np.float32)
        np.put_along_axis(logits, experts, scores, -1)
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return SimpleNamespace(
        router_logits=logits,
        router_probs=probs,
        experts=experts,
        gates=np.take_along_axis(probs, experts, -1),
        prompt_length=prompt_length or n_tokens,
        choice_values=None,
    )


def random_choices(seed, n_layers=1, n_tokens=2000, n_experts=8, top_k=2, weights=None):
    """Independent choices of different experts, with P(set) ∝ the product of its weights."""
    rng = np.random.default_rng(seed)
    weights = np.ones(n_experts) if weights is None else np.asarray(weights, float)
    sets = np.array(list(itertools.combinations(range(n_experts), top_k)))
    chance = weights[sets].prod(axis=1)
    drawn = sets[rng.choice(len(sets), (n_layers, n_tokens), p=chance / chance.sum())]
    return rng.permuted(drawn, axis=2)


def routed_logits(seed=0, n_layers=2, n_tokens=5, n_experts=8, top_k=2):
    logits = np.random.default_rng(seed).normal(size=(n_layers, n_tokens, n_experts))
    experts = np.argsort(-logits, axis=-1)[..., :top_k]
    return routed(experts, n_experts, logits)


VOCABULARY = 25


def running_text(kind, seed, n_tokens=200, n_layers=2, by_id=0.0):
    """A text whose routing and whose words go along with the place, and not with each other.

    Args:
        kind: "independent" tokens; "neighbours" that are alike (0.8 of a logit's neighbour, words
            that come again close by); a "topic" kept for 50 tokens (0.3 of the variance, with
            words of its own); a "drift" (a random walk of logits and of the words' chances).
        seed: of it.
        n_tokens, n_layers: its size.
        by_id: size of logits that each word brings along.
    """
    rng = np.random.default_rng(seed)
    shape = (n_layers, n_tokens, 8)
    logits = rng.standard_normal(shape)
    chance = np.tile(1 / np.arange(1, VOCABULARY + 1), (n_tokens, 1))
    if kind == "neighbours":
        logits[:, 1:] *= 0.6
        for t in range(1, n_tokens):
            logits[:, t] += 0.8 * logits[:, t - 1]
    elif kind == "topic":
        at = (np.arange(n_tokens) + rng.integers(50)) // 50
        logits = np.sqrt(0.7) * logits
        logits += np.sqrt(0.3) * rng.standard_normal((n_layers, at[-1] + 1, 8))[:, at]
        chance *= np.exp(1.5 * rng.standard_normal((at[-1] + 1, VOCABULARY)))[at]
    elif kind == "drift":
        logits += rng.standard_normal(shape).cumsum(axis=1) / np.sqrt(n_tokens)
        walk = rng.standard_normal(chance.shape).cumsum(axis=0)
        chance *= np.exp(2 * walk / np.sqrt(n_tokens))
    sums = chance.cumsum(axis=1)
    words = (rng.random((n_tokens, 1)) * sums[:, -1:] > sums).sum(axis=1)
    if kind == "neighbours":
        for t in np.flatnonzero(rng.random(n_tokens) < 0.3):
            words[t] = words[max(t - rng.integers(1, 6), 0)]
    logits += by_id * rng.standard_normal((n_layers, VOCABULARY, 8))[:, words]
    made = routed(np.argsort(-logits, axis=2)[..., :2], 8, logits)
    made.tokens = words
    return made
