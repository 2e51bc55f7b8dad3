"""Tests of two runs beside each other, computed once a session: keyed by the runs' content."""

from __future__ import annotations

from typing import Any

import streamlit as st

from lens.prompt_pairs import fading as fade
from lens.prompt_pairs import next_token_change as next_tokens
from lens.prompt_pairs import paired_tests
from lens.prompt_pairs.paired_routing import Paired

# Of a session alone: what people type does not show in a cache that others read.
_data = st.cache_data(max_entries=64, show_spinner="Drawing the null …", scope="session")


@_data
def difference(
    key: str, what: str, block: int, draws: int, seed: int, _runs: Paired
) -> paired_tests.DifferenceTest:
    return paired_tests.difference_test(_runs, what, block=block, draws=draws, seed=seed)


@_data
def agreement(
    key: str, block: int, draws: int, seed: int, _runs: Paired
) -> paired_tests.AgreementTest:
    return paired_tests.agreement_test(_runs, block=block, draws=draws, seed=seed)


@_data
def loads(
    key: str, block: int, draws: int, seed: int, _runs: Paired
) -> paired_tests.LoadDifference:
    return paired_tests.load_difference(_runs, block=block, draws=draws, seed=seed)


@_data
def expected(
    key: str, block: int, draws: int, seed: int, _runs: Paired, _first: Any, _second: Any
) -> next_tokens.NextTokenChange:
    return next_tokens.next_token_change(
        _runs, _first, _second, block=block, draws=draws, seed=seed
    )


@_data
def fading(key: str, block: int, draws: int, seed: int, _runs: Paired) -> fade.Fading:
    return fade.fading(_runs, block=block, draws=draws, seed=seed)
