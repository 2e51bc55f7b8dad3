"""Statistics of a trace with their nulls, computed once a session: keyed by its content."""

from __future__ import annotations

import hashlib

import numpy as np
import streamlit as st

from lens.chosen_by import shares
from lens.finding import Finding
from lens.findings import of_texts
from lens.many_prompts import label_tests
from lens.many_prompts.trace_folder import TraceFolder
from lens.prompt_pairs.agreement import Agreement
from lens.prompt_pairs.agreement import agreement as agreement_of
from lens.stats.permutation_tests import AgainstChance
from lens.traces import (
    RoutedText,
    continuation,
    coselection,
    information,
    load_null,
    logit_moments,
    margins,
    repeats,
    router_geometry,
)

# Of a session alone: what people type does not show in a cache that others read.
# They are kept as they are, so that a figure knows how they were made.
_data = st.cache_resource(max_entries=32, show_spinner="Drawing the null …", scope="session")


def trace_key(trace: RoutedText) -> str:
    """Hash of what the statistics of a trace depend on."""
    digest = hashlib.sha256()
    for array in (trace.tokens, trace.experts, trace.router_logits):
        array = np.ascontiguousarray(array)
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(array.view(np.uint8).data)
    return digest.hexdigest()


@_data
def busiest_expert(key: str, names: tuple[str, ...], _trace: RoutedText) -> Finding:
    return of_texts.busiest_expert(_trace, names)


@_data
def pair_test(key: str, _trace: RoutedText) -> coselection.PairTest:
    return coselection.pair_test(coselection.coselection(_trace), coselection.pair_times(_trace))


@_data
def repeat_test(key: str, _trace: RoutedText) -> repeats.RepeatTest:
    return repeats.repeat_test(_trace.experts, _trace.router_logits.shape[2])


@_data
def even_use(key: str, _trace: RoutedText) -> AgainstChance:
    return load_null.even_use(_trace)


@_data
def token_information(key: str, _trace: RoutedText) -> information.Information:
    return information.token_information(
        _trace.tokens, _trace.experts, _trace.router_logits.shape[2]
    )


@_data
def position_information(key: str, _trace: RoutedText) -> information.Information:
    return information.position_information(_trace.experts, _trace.router_logits.shape[2])


@_data
def margin_shape(key: str, _trace: RoutedText) -> margins.MarginShape:
    return margins.margin_shape(_trace)


@_data
def pair_distances(key: str, layer: int, _trace: RoutedText) -> tuple[np.ndarray, int | None]:
    return router_geometry.pair_distances(shares(_trace.router_probs[layer]))


@_data
def nearest_distances(key: str, layer: int, _trace: RoutedText) -> np.ndarray:
    return router_geometry.nearest_distances(shares(_trace.router_probs[layer]))


@_data
def agreement(key: str, other_key: str, _trace: RoutedText, _other: RoutedText) -> Agreement:
    return agreement_of(_trace, _other)


@_data
def part_loads(key: str, prompt_length: int, _trace: RoutedText) -> continuation.PartLoads:
    return continuation.part_loads(_trace)


@_data
def load_prediction(
    key: str, routers_key: str, _trace: RoutedText, _isotropic: np.ndarray | None
) -> logit_moments.LoadPrediction:
    return logit_moments.load_prediction(_trace, _isotropic)


def folder_key(folder: TraceFolder) -> str:
    """Hash of what the statistics of many traces depend on."""
    digest = hashlib.sha256(repr((folder.names, folder.labels, folder.n_experts)).encode())
    for array in (folder.label_of, folder.tokens, folder.trace_of, folder.experts):
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


@_data
def label_test(key: str, _folder: TraceFolder) -> label_tests.LabelTest:
    return label_tests.label_test(_folder)


@_data
def folder_token_information(key: str, _folder: TraceFolder) -> information.Information:
    return label_tests.folder_token_information(_folder)


@_data
def folder_position_information(key: str, _folder: TraceFolder) -> information.Information:
    return label_tests.folder_position_information(_folder)


@_data
def folder_repeats(key: str, _folder: TraceFolder) -> repeats.RepeatTest:
    return label_tests.folder_repeats(_folder)
