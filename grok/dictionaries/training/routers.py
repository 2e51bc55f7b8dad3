"""How routers see the stream, fitted from a run's own values.

A router's logits are linear in what it reads, and that is the stream over its root mean square
times a scale for each dimension. Both follow from values at three sites, for any family and
wherever the weights are.

Axes: M layers, B tokens, D width, E experts. No JAX here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grok.dictionaries.training.source import Values
from grok.errors import GrokError
from grok.interventions.sites import HookPoint

WORST = 0.01  # relative error of the logits that a fit may have


def router_columns(
    values: Values, windows: Sequence[int], lengths: np.ndarray, layers: Sequence[int]
) -> np.ndarray:
    """Canonical columns that turn a change of the stream into one of router logits [M, D, E].

    In units of the logits' own spread: E‖columnsᵀ(h − h̄)‖² is 1, the norm's scale held.

    Args:
        values: gives those of windows.
        windows: to fit on; some thousand tokens.
        lengths: tokens of each window [N].
        layers: of the routers.

    Raises:
        GrokError: the logits of this family are not that function of the stream.
    """
    try:
        columns, spreads = router_maps(values, windows, lengths, layers)
    except GrokError as error:
        raise GrokError(f"loss.routing: {error} Leave loss.routing at 0 for this model.") from error
    return columns / np.sqrt(spreads)[:, None, None]


def router_maps(
    values: Values, windows: Sequence[int], lengths: np.ndarray, layers: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Columns from a stream over its root mean square to logits less their mean [M, D, E].

    Args and errors are those of `router_columns`.

    Returns:
        The columns, and E‖columnsᵀ(h − h̄)‖² of the stream h itself [M].
    """
    sites = ("resid_mid", "router.input", "router.logits")
    points = [HookPoint(layer, site) for layer in layers for site in sites]
    found: dict[HookPoint, list[np.ndarray]] = {point: [] for point in points}
    for window, own in values.of(windows, points):
        for point, value in own.items():
            found[point].append(np.asarray(value[: lengths[window]], np.float64))
    whole = {point: np.concatenate(parts) for point, parts in found.items()}
    columns, spreads = [], []
    for layer in layers:
        h, u, z = (whole[HookPoint(layer, site)] for site in sites)
        z = z - z.mean(1, keepdims=True)
        normed = h / np.sqrt(np.square(h).mean(1, keepdims=True))
        scale = (u * normed).sum(0) / np.square(normed).sum(0)
        router = np.linalg.lstsq(u, z, rcond=None)[0]
        seen = scale[:, None] * router
        off = normed @ seen - z
        if np.square(off).sum() > WORST**2 * np.square(z).sum():
            raise GrokError(
                f"Layer {layer}'s router logits do not follow from resid_mid as RMSNorm and a "
                "matrix give them."
            )
        columns.append(seen)
        spreads.append(np.square((h - h.mean(0)) @ seen).sum(1).mean())
    return np.stack(columns), np.array(spreads)
