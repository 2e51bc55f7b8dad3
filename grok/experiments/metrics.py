"""Metrics of a run: one number from its logits. Axes: T tokens, V vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grok.errors import PromptError


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["tokens"],
    meta_fields=["function", "name", "unit", "everywhere"],
)
@dataclass(frozen=True)
class Metric:
    """A number of a run; other tokens run the same compiled program.

    Attributes:
        function: (log-probabilities [V], those of the reference [V], tokens) -> scalar.
        tokens: ids whose logits or probabilities it compares.
        name: for people.
        unit: of its values.
        everywhere: True for the mean over all tokens, False for the last token alone.
    """

    function: Callable[..., jax.Array]
    tokens: tuple[Any, ...]
    name: str
    unit: str
    everywhere: bool = False

    def check(self, vocab_size: int) -> Metric:
        """Returns the metric after checking that its tokens are in the vocabulary.

        Raises:
            PromptError: a token is not in the vocabulary.
        """
        for token in self.tokens:
            if not 0 <= int(token) < vocab_size:
                raise PromptError(
                    f"{self.name}: there is no token {int(token)}; this model has 0 to "
                    f"{vocab_size - 1}."
                )
        return self


def _difference(
    log_probs: jax.Array, reference: jax.Array, a: jax.Array, b: jax.Array
) -> jax.Array:
    return log_probs[a] - log_probs[b]


def _probability(log_probs: jax.Array, reference: jax.Array, token: jax.Array) -> jax.Array:
    return jnp.exp(log_probs[token])


def _divergence(log_probs: jax.Array, reference: jax.Array) -> jax.Array:
    p = jnp.exp(reference)
    return jnp.sum(jnp.where(p > 0, p * (reference - log_probs), 0.0))


def logit_difference(token: int, other: int) -> Metric:
    """Logit of one next token minus that of another, after the last token of the prompt.

    Reading it: above 0 the model prefers `token`; e to this power is the ratio of their
    probabilities.
    """
    tokens = (np.int32(token), np.int32(other))
    return Metric(_difference, tokens, "logit difference", "logits")


def probability(token: int) -> Metric:
    """Probability of a next token after the last token of the prompt."""
    return Metric(_probability, (np.int32(token),), "probability", "probability")


def kl_divergence(*, everywhere: bool = False) -> Metric:
    """KL(reference ‖ run) of the next-token distributions, in nats.

    Reading it: 0 when nothing changed; the mean surprise, beyond the reference's own, of who
    expects the run's distribution and sees the reference's.

    Args:
        everywhere: the mean over all tokens of the prompt, not the last one alone.
    """
    return Metric(_divergence, (), "KL divergence", "nats", everywhere)


NAMED: Mapping[str, Callable[..., Metric]] = {
    "kl_divergence": lambda everywhere=False: kl_divergence(everywhere=everywhere),
    "probability": lambda token, everywhere=False: probability(token),
    "logit_difference": lambda token, other, everywhere=False: logit_difference(token, other),
}


def plain_metric(metric: Metric) -> dict[str, Any]:
    """A metric as plain data, to be sent to a model in another process.

    Raises:
        PromptError: it is a function of one's own.
    """
    for name in NAMED:
        data = {
            "name": name,
            "tokens": [int(token) for token in metric.tokens],
            "everywhere": metric.everywhere,
        }
        if name.replace("_", " ") == metric.name.lower() and metric_of(data) == metric:
            return data
    raise PromptError(
        f"{metric.name}: a metric of your own cannot be sent to a model in another process; "
        f"expected one of {', '.join(NAMED)}."
    )


def metric_of(data: Mapping[str, Any]) -> Metric:
    """The metric that plain data stands for.

    Raises:
        PromptError: there is no such metric, or it takes another number of tokens.
    """
    make = NAMED.get(str(data.get("name")))
    if make is None:
        raise PromptError(f"metric: expected one of {', '.join(NAMED)}.")
    try:
        return make(*data.get("tokens", ()), everywhere=bool(data.get("everywhere", False)))
    except TypeError as error:
        raise PromptError(
            f"metric: {len(data.get('tokens', ()))} tokens do not fit {data['name']}."
        ) from error
