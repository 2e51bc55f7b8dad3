"""Mean and covariance of router logits, and how often experts would be chosen under them.

Axes: layer (L), token (T), expert (E), d_model (d).

The isotropic prior of `lens.experts.selection` asks the weights alone. Traces say more: where the
logits lie and how they vary together. A normal distribution with that mean and that E × E
covariance predicts loads; what it misses is due to the shape of the distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from lens.chosen_by import deciding_logits
from lens.errors import LensError
from lens.experts.selection import BATCHES, MANY_EXPERTS, POINTS, Breadth, selected_share
from lens.recipe.steps import remembered
from lens.stats.draws import check_draws
from lens.stats.permutation_tests import DRAWS, SEED
from lens.traces.protocols import RoutedTokens
from lens.traces.routing import load


@dataclass(frozen=True, eq=False)
class LogitMoments:
    """Mean and scatter of the router logits of some tokens.

    Attributes:
        n: tokens.
        mean: of the logits.
        scatter: Σ (z − mean)(z − mean)ᵀ over the tokens.
    """

    n: int
    mean: Float[np.ndarray, "layer expert"]
    scatter: Float[np.ndarray, "layer expert expert"]

    @property
    def covariance(self) -> Float[np.ndarray, "layer expert expert"]:
        """scatter / (n − 1).

        Raises:
            LensError: fewer than two tokens.
        """
        if self.n < 2:
            raise LensError(
                f"Covariance of router logits: found {self.n} tokens; expected at least two."
            )
        return self.scatter / (self.n - 1)


def logit_moments(logits: Float[np.ndarray, "layer token expert"]) -> LogitMoments:
    """Mean and scatter of router logits over the tokens, each layer by itself.

    Raises:
        LensError: an expert was banned in the trace, so that its logits have no mean.
    """
    logits = np.asarray(logits)
    if not np.isfinite(logits).all():
        raise LensError(
            "Moments of router logits: experts were banned in this trace, so their logits are "
            "minus infinity and have no mean. Use the trace of the prompt as it is."
        )
    n_layers, n_tokens, n_experts = logits.shape
    mean = np.zeros((n_layers, n_experts))
    scatter = np.zeros((n_layers, n_experts, n_experts))
    for layer in range(n_layers if n_tokens else 0):  # float64 one layer at a time
        z = logits[layer].astype(np.float64)
        mean[layer] = z.mean(axis=0)
        z -= mean[layer]
        scatter[layer] = z.T @ z
    return LogitMoments(n_tokens, mean, scatter)


def selection_under(
    mean: Float[np.ndarray, "layer expert"],
    covariance: Float[np.ndarray, "layer expert expert"],
    top_k: int,
) -> Breadth:
    """Probability that each expert is among the `top_k`, the logits being normal.

    z ~ N(mean, covariance), sampled at 2^16 points (2^13 above 16 experts) with a fixed
    seed. Unchanged by a number added to all logits of a token. With mean 0 and the
    routers' own Gram matrix it is `lens.experts.selection.breadth`.

    Reading it: divided by `top_k`, the load to expect.

    Raises:
        LensError: `top_k` is out of range, or a layer's logits do not vary.
    """
    n_experts = mean.shape[1]
    if not 1 <= top_k <= n_experts:
        raise LensError(f"top_k: found {top_k}; expected 1 to {n_experts}, the number of experts.")
    if top_k == n_experts:
        return Breadth(np.ones(mean.shape), "all experts are selected", 0.0)
    mean = mean - mean.mean(axis=1, keepdims=True)
    covariance = covariance - covariance.mean(axis=1, keepdims=True)
    covariance = covariance - covariance.mean(axis=2, keepdims=True)
    variance = np.einsum("lee->l", covariance)
    if not (variance > 1e-12 * np.maximum((mean**2).sum(axis=1), 1e-300)).all():
        layer = int(np.argmin(variance))
        raise LensError(
            f"Layer row {layer}: the router logits do not vary between tokens, so there is nothing "
            "to predict from. Use a longer text."
        )
    batches = BATCHES if n_experts <= MANY_EXPERTS else BATCHES // 8
    shares, error = selected_share(covariance, top_k, batches=batches, biases=mean)
    return Breadth(shares, f"sample of {batches * POINTS:,} points", error)


@dataclass(frozen=True, eq=False)
class Prediction:
    """Agreement of a predicted load with the measured one, over all layers.

    Attributes:
        load: predicted.
        correlation: Pearson, of all (layer, expert) loads.
        error: mean absolute difference of the loads.
        null_correlation: 95 % limits with experts relabelled at random.
        null_error: mean error with experts relabelled at random.
        p: share of relabellings with a correlation at least as large.
    """

    load: Float[np.ndarray, "layer expert"]
    correlation: float
    error: float
    null_correlation: tuple[float, float]
    null_error: float
    p: float


@dataclass(frozen=True, eq=False)
class LoadPrediction:
    """Measured load beside two predictions.

    Attributes:
        measured: load of the text.
        normal: predicted from the mean and covariance of the text's own logits.
        isotropic: predicted from the weights alone; None where the routers are not known.
        even_error: mean absolute difference between measured and even load.
        noise_error: what it would be between the measured load and its own expectation:
            the error that as many independent tokens leave to a perfect prediction.
        n_tokens: tokens.
        draws, seed: of the relabellings.
        method: how the normal prediction was computed.
    """

    measured: Float[np.ndarray, "layer expert"]
    normal: Prediction
    isotropic: Prediction | None
    even_error: float
    noise_error: float
    n_tokens: int
    draws: int
    seed: int
    method: str


@remembered
def load_prediction(
    trace: RoutedTokens,
    isotropic: Float[np.ndarray, "layer expert"] | None = None,
    *,
    moments: LogitMoments | None = None,
    draws: int = DRAWS,
    seed: int = SEED,
) -> LoadPrediction:
    """Measured load against what the logits' moments, and the weights alone, predict.

    The load predicted is P(selected) / K. The null relabels the experts of each layer at
    random: a prediction that knows nothing of the experts. The normal prediction is made
    from the same tokens, so that it should be near; how much error it leaves beyond that
    of chance (`noise_error`) is what the shape of the distribution does.

    Args:
        trace: the tokens.
        isotropic: P(selected) under the isotropic prior, as `experts.selection.breadth` gives it.
        moments: of the logits to predict from; by default those of the trace itself.
        draws: relabellings.
        seed: of them.

    Raises:
        LensError: fewer than two tokens, logits that do not vary, shapes disagree, or experts
            are chosen by other values than logits.
    """
    check_draws(draws)
    measured = load(trace)
    top_k = trace.experts.shape[2]
    logits = deciding_logits(trace, "Predicted load")
    own = logit_moments(logits) if moments is None else moments
    weights = measured.shape if isotropic is None else isotropic.shape
    if not own.mean.shape == measured.shape == weights:
        raise LensError(
            f"Predicted load: the trace has {measured.shape} layers and experts, the prediction "
            f"{own.mean.shape} and {weights}. Use those of one model."
        )
    predicted = selection_under(own.mean, own.covariance, top_k)
    n_tokens = trace.experts.shape[1]
    chosen = measured * top_k
    spread = np.sqrt(chosen * (1 - chosen) / n_tokens) / top_k
    return LoadPrediction(
        measured=measured,
        normal=compare_loads(measured, predicted.probability / top_k, draws=draws, seed=seed),
        isotropic=None
        if isotropic is None
        else compare_loads(measured, isotropic / top_k, draws=draws, seed=seed),
        even_error=float(np.abs(measured - 1 / measured.shape[1]).mean()),
        noise_error=float(spread.mean() * np.sqrt(2 / np.pi)),
        n_tokens=n_tokens,
        draws=draws,
        seed=seed,
        method=predicted.method,
    )


def compare_loads(
    measured: Float[np.ndarray, "layer expert"],
    predicted: Float[np.ndarray, "layer expert"],
    *,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Prediction:
    """Correlation and error of a predicted load, beside relabelled experts."""
    rng = np.random.default_rng(seed)
    correlation = _correlation(measured, predicted)
    correlations, errors = np.empty(draws), np.empty(draws)
    for draw in range(draws):
        shuffled = rng.permuted(predicted, axis=1)
        correlations[draw] = _correlation(measured, shuffled)
        errors[draw] = np.abs(measured - shuffled).mean()
    if np.isnan(correlation):
        low = high = p = float("nan")
    else:
        low, high = np.quantile(correlations, [0.025, 0.975], method="weibull")
        p = (1 + np.count_nonzero(correlations >= correlation - 1e-12)) / (1 + draws)
    return Prediction(
        load=predicted,
        correlation=correlation,
        error=float(np.abs(measured - predicted).mean()),
        null_correlation=(float(low), float(high)),
        null_error=float(errors.mean()),
        p=float(p),
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of deviations from an even load; not a number if one has none."""
    a, b = a - 1 / a.shape[1], b - 1 / b.shape[1]
    size = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / size) if size > 1e-12 else float("nan")
