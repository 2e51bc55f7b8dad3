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
