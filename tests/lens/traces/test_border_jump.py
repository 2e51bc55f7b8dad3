"""A jump of routing at a border is found, a drift is not."""

from types import SimpleNamespace

import numpy as np
import pytest

from lens.errors import LensError
from lens.traces.border_jump import border_jump


def text(seed: int, *, n_tokens: int = 200, drift: float = 0.0, jump: float = 0.0):
    """Two layers whose logits drift over a text and jump in its middle."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((2, n_tokens, 8))
    logits += drift * np.cumsum(rng.standard_normal((2, n_tokens, 8)), axis=1) / np.sqrt(n_tokens)
    logits[:, n_tokens // 2 :] += jump * rng.standard_normal((2, 1, 8))
    return SimpleNamespace(
        router_logits=logits, experts=np.argsort(-logits, axis=2)[:, :, :2], choice_values=None
    )


def test_a_drifting_text_has_no_border():
    p = [border_jump(text(seed, drift=1.5), 100).overall_p for seed in range(200)]
    assert np.mean(np.array(p) <= 0.05) <= 0.08


def test_a_jump_is_found_in_a_drifting_text():
    p = [border_jump(text(seed, drift=0.5, jump=1.0), 100).overall_p for seed in range(40)]
    assert np.mean(np.array(p) <= 0.05) >= 0.7


def test_the_change_is_that_of_the_windows():
    trace = text(3)
    found = border_jump(trace, 100, window=20)
    for part, sign in ((slice(80, 100), -1), (slice(100, 120), 1)):
        share = np.bincount(trace.experts[0, part].ravel(), minlength=8) / 40
        found.change[0] -= sign * share
    assert np.allclose(found.change[0], 0)
    assert (found.window, found.places) == (20, 160)


def test_a_short_text_says_what_it_needs():
    with pytest.raises(LensError, match="Use a longer text"):
        border_jump(text(0, n_tokens=60), 4)
