"""How far the tokens of a text go together, and how many independent ones they are worth.

Axes: series (quantities of the same tokens, such as one an expert), token (T).

Neighbouring tokens share their context, so the mean of a quantity over a text varies more than
that of independent tokens. By how much, is the correlation time: τ = 1 + 2 Σ_k ρ_k over the
correlations ρ_k of tokens k apart. A text of T tokens says as much as T / τ independent ones.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

# Correlations are summed up to so many correlation times, and to this part of the text.
TIMES = 10
SHARE = 4
# Correlation of neighbours above which a series says no more than that it hardly moves.
MOST = 0.99


def neighbour_correlation(values: Float[np.ndarray, "series token"]) -> float:
    """Correlation of neighbouring values without its bias, mean over the series that vary.

    Correlations in a short series come out too small, because its own mean is taken away: on
    average r − (1 + 4 r) / T. So (T r̂ + 1) / (T − 4) is given, within −0.99 and 0.99.

    Reading it: 0 where neighbours have nothing to do with each other. Not a number where no
    series varies, or of fewer than eight tokens. What is not a number counts as the mean.

    Source: Kendall, 1954, for the bias.
    """
    n = values.shape[1]
    if n < 8 or not np.isfinite(values).any():
        return float("nan")
    with np.errstate(invalid="ignore"):
        known = np.isfinite(values)
        mean = np.where(known, values, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    centred = np.where(known, values - mean[:, None], 0.0)
    size = (centred**2).sum(axis=1)
    asked = size > 1e-24 * max(float(np.nanmax(np.abs(values))) ** 2, 1e-300)
    if not asked.any():
        return float("nan")
    found = (centred[asked, 1:] * centred[asked, :-1]).sum(axis=1) / size[asked]
    return float(np.clip((n * found.mean() + 1) / (n - 4), -MOST, MOST))


def correlation_time(values: Float[np.ndarray, "series token"]) -> float:
    """Tokens of a text that say as much as one independent token, at least 1.

    1 + 2 Σ ρ_k with ρ_k the correlation of tokens k apart, all series together, up to the first
    k that is ten such times; a slow part, such as a topic that is kept for 50 tokens, counts
    though it may be a small part of the variance. Taking away the mean makes each ρ_k too small,
    which is made up for by the factor 1 + (2 k + 1) / T.

    Reading it: 1 for independent tokens and for series that do not vary. A text that drifts
    all along, or has one topic or two, has a time of the order of its length, which it cannot
    tell itself: what is given is then too small.

    Source: Sokal, 1997, and Wolff, 2004, for the window and the bias.
    """
    n = values.shape[1]
    if n < 2 * SHARE:
        return 1.0
    centred = values - values.mean(axis=1, keepdims=True)
    spectrum = (np.abs(np.fft.rfft(centred, 2 * n, axis=1)) ** 2).sum(axis=0)
    together = np.fft.irfft(spectrum)[: n // SHARE + 1]
    if not together[0] > 1e-24 * max(float(np.abs(values).max()) ** 2, 1e-300):
        return 1.0
    lags = np.arange(len(together))
    rho = together / together[0] * n / (n - lags)
    times = 1 + 2 * (np.cumsum(rho) - rho[0])
    enough = np.flatnonzero(lags >= TIMES * times)
    window = int(enough[0]) if len(enough) else len(lags) - 1
    return float(max(times[window] * (1 + (2 * window + 1) / n), 1.0))
