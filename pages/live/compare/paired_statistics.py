"""Tests of two runs beside each other, computed once a session: keyed by the runs' content."""

from __future__ import annotations

import streamlit as st

from lens.prompt_pairs import fading as fading_tests
from lens.prompt_pairs import next_token_change, paired_tests
from lens.prompt_pairs.paired_routing import Paired
from lens.traces import RoutedText

# Of a session alone: what people type does not show in a cache that others read.
_data = st.cache_data(max_entries=64, show_spinner="Drawing the null …", scope="session")


@_data
def difference(
    key: str, what: str, block: int | None, draws: int, seed: int, _runs: Paired
) -> paired_tests.DifferenceTest:
    return paired_tests.difference_test(_runs, what, block=block, draws=draws, seed=seed)


@_data
def agreement(
    key: str, block: int | None, draws: int, seed: int, _runs: Paired
) -> paired_tests.AgreementTest:
    return paired_tests.agreement_test(_runs, block=block, draws=draws, seed=seed)


@_data
def loads(
    key: str, block: int | None, draws: int, seed: int, _runs: Paired
) -> paired_tests.LoadDifference:
    return paired_tests.load_difference(_runs, block=block, draws=draws, seed=seed)


@_data
def expected(
    key: str,
    block: int | None,
    draws: int,
    seed: int,
    _runs: Paired,
    _first: RoutedText,
    _second: RoutedText,
) -> next_token_change.NextTokenChange:
    return next_token_change.next_token_change(
        _runs, _first, _second, block=block, draws=draws, seed=seed
    )


@_data
def fading(
    key: str, block: int | None, draws: int, seed: int, _runs: Paired
) -> fading_tests.Fading:
    return fading_tests.fading(_runs, block=block, draws=draws, seed=seed)
