"""A trained model on held-out text: loss, expert load, and the information of experts on domains.

Arrays in, numbers out; the model comes in as a function, so the float weights,
the int8 weights and a stand-in in a test are measured by the same code.

Axes: R windows, S positions of a window, V vocabulary, L layers, K chosen
experts a token, E experts, D domains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from grok.errors import GrokError
from grok.training.corpus import EncodedDomain

# tokens [B, S] -> logits [B, S, V], experts [L, B, S, K] with the first choice first.
Forward = Callable[[np.ndarray], tuple[Any, Any]]


@dataclass(frozen=True)
class Windows:
    """Held-out text as rows of one length.

    Attributes:
        tokens: [R, S + 1] int32, inputs and targets overlapping.
        domain: [R] int32, index into `domains`.
        counted: [R, S] bool. The last window of a domain is moved back to end
            with the text; the positions it repeats are not counted again.
        domains: Names.
    """

    tokens: np.ndarray
    domain: np.ndarray
    counted: np.ndarray
    domains: tuple[str, ...]

    @property
    def inputs(self) -> np.ndarray:
        """[R, S]."""
        return self.tokens[:, :-1]

    @property
    def targets(self) -> np.ndarray:
        """[R, S]."""
        return self.tokens[:, 1:]


@dataclass(frozen=True)
class Measurement:
    """A model run over windows: `nll` [R, S] float64 in nats, `experts` [L, R, S, K] int16."""

    nll: np.ndarray
    experts: np.ndarray


@dataclass(frozen=True)
class DomainInformation:
    """Mutual information between domain and chosen expert, layer by layer, with its chance level.

    Attributes:
        nats: [L] plug-in estimate.
        null_mean, null_low, null_high: [L] mean, 2.5 % and 97.5 % of the shuffled estimates.
        p_value: [L] share of shuffles at least as large, counting the data itself once.
        domain_entropy: Entropy of the domain of a counted token, in nats: the most
            that any choice of experts could tell.
        draws, seed: Of the shuffles.
    """

    nats: np.ndarray
    null_mean: np.ndarray
    null_low: np.ndarray
    null_high: np.ndarray
    p_value: np.ndarray
    domain_entropy: float
    draws: int
    seed: int


def heldout_windows(
    encoded: Mapping[str, EncodedDomain], sequence_length: int, limit: int | None = None
) -> Windows:
    """Windows in which every held-out token but each domain's first is a counted target once.

    Args:
        encoded: Streams by domain.
        sequence_length: S.
        limit: The most windows a domain gives, spread evenly over its text; all by default.

    Raises:
        GrokError: A domain's held-out stream is shorter than a window.
    """
    rows, domain, counted = [], [], []
    for index, (name, streams) in enumerate(encoded.items()):
        stream = np.asarray(streams.heldout, dtype=np.int32)
        last = len(stream) - sequence_length - 1
        if last < 0:
            raise GrokError(
                f"Domain {name} has {len(stream)} held-out tokens, fewer than a window of "
                f"{sequence_length + 1}. Give more text or a shorter sequence length."
            )
        starts = list(range(0, last + 1, sequence_length))
        repeated = 0
        if starts[-1] < last:
            repeated = sequence_length - (last - starts[-1])
            starts.append(last)
        kept = np.arange(len(starts))
        if limit is not None and limit < len(starts):
            kept = np.linspace(0, len(starts) - 1, limit).round().astype(int)
        for number in kept:
            mask = np.ones(sequence_length, dtype=bool)
            if number == len(starts) - 1:
                mask[:repeated] = False
            rows.append(stream[starts[number] : starts[number] + sequence_length + 1])
            domain.append(index)
            counted.append(mask)
    return Windows(
        np.stack(rows), np.array(domain, dtype=np.int32), np.stack(counted), tuple(encoded)
    )


def measure(forward: Forward, windows: Windows, batch_size: int = 8) -> Measurement:
    """The loss of every target and the experts of every input, running `forward` over the windows.

    Every call has the same shape, so a compiled `forward` is compiled once.
    """
    count, length = windows.inputs.shape
    nll = np.empty((count, length), dtype=np.float64)
    chosen: list[np.ndarray] = []
    for start in range(0, count, batch_size):
        rows = np.arange(start, start + batch_size)
        real = rows < count
        rows = np.minimum(rows, count - 1)
        logits, experts = forward(windows.inputs[rows])
        nll[rows[real]] = token_losses(np.asarray(logits)[real], windows.targets[rows[real]])
        chosen.append(np.asarray(experts)[:, real].astype(np.int16))
    return Measurement(nll, np.concatenate(chosen, axis=1))


def token_losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log softmax(logits)[target] in nats: logits [..., V], targets [...] -> [...] float64."""
    scores = np.asarray(logits, dtype=np.float32)
    top = scores.max(axis=-1, keepdims=True)
    # exp in float32, sum in float64: exact to about 1e-7 at a fraction of the memory.
    total = np.exp(scores - top).sum(axis=-1, dtype=np.float64)
    own = np.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
    losses: np.ndarray = np.log(total) + top[..., 0] - own
    return losses


def unigram_log_probs(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """log p [V] of a model that knows only how often each token occurs in `tokens`.

    Add-one smoothing: p = (count + 1) / (N + V), so that a held-out token never
    seen in training costs log(N + V) nats and not infinity.
    """
    counts = np.bincount(tokens, minlength=vocab_size)
    log_probs: np.ndarray = np.log(counts + 1.0) - np.log(counts.sum() + vocab_size)
    return log_probs


def unigram_nll(
    encoded: Mapping[str, EncodedDomain], windows: Windows, vocab_size: int, *, pooled: bool
) -> np.ndarray:
    """Loss [R, S] of unigram baselines fitted on training tokens alone.

    Args:
        encoded: Streams by domain; only `train` is used.
        windows: The held-out windows that the model is measured on.
        vocab_size: V.
        pooled: True: one baseline, of the training tokens of all domains
            together. False: a stronger one, which is told the domain and uses
            that domain's training tokens.
    """
    streams = [encoded[name].train for name in windows.domains]
    if pooled:
        streams = [np.concatenate(streams)] * len(streams)
        tables = np.stack([unigram_log_probs(streams[0], vocab_size)] * len(streams))
    else:
        tables = np.stack([unigram_log_probs(stream, vocab_size) for stream in streams])
    losses: np.ndarray = -tables[windows.domain[:, None], windows.targets]
    return losses


def token_bytes(tokenizer: Any) -> np.ndarray:
    """UTF-8 bytes that each id of a SentencePiece processor stands for in running text [V]."""
    lengths = np.zeros(len(tokenizer), dtype=np.int64)
    for index in range(len(tokenizer)):
        if tokenizer.is_byte(index):
            lengths[index] = 1
        elif not (tokenizer.is_control(index) or tokenizer.is_unknown(index)):
            lengths[index] = len(tokenizer.id_to_piece(index).replace("▁", " ").encode())
    return lengths


def domain_losses(nll: np.ndarray, windows: Windows, byte_lengths: np.ndarray) -> dict[str, Any]:
    """Mean loss by domain and overall.

    Args:
        nll: [R, S] nats.
        windows: What it was measured on.
        byte_lengths: [V], as from `token_bytes`.

    Returns:
        `overall` (every counted token alike) and `domains` by name, each with
        `nats_per_token`, `bits_per_byte` and `tokens`.
    """

    def figures(rows: np.ndarray) -> dict[str, float]:
        kept = windows.counted & rows[:, None]
        nats = float(nll[kept].sum())
        n_bytes = int(byte_lengths[windows.targets[kept]].sum())
        tokens = int(kept.sum())
        return {
            "nats_per_token": nats / tokens,
            "bits_per_byte": nats / math.log(2) / n_bytes,
            "tokens": tokens,
        }

    return {
        "overall": figures(np.ones(len(windows.domain), dtype=bool)),
        "domains": {
            name: figures(windows.domain == index) for index, name in enumerate(windows.domains)
        },
    }


def expert_load(experts: np.ndarray, counted: np.ndarray, n_experts: int) -> np.ndarray:
    """Share of the (token, slot) assignments that each expert takes [L, E]; rows sum to 1.

    Reading it: 1 / E is an even load; an expert near 0 is dead.
    """
    counts = _window_counts(experts, counted, n_experts).sum(axis=1)
    shares: np.ndarray = counts / counts.sum(axis=1, keepdims=True)
    return shares


def mutual_information(joint: np.ndarray) -> np.ndarray:
    """Mutual information in nats of the two last axes of a table of counts [..., D, E] -> [...].

    The plug-in estimate: frequencies in place of probabilities. It is never
    negative and so biased upwards, by about (D - 1)(E - 1) / 2N for N
    independent observations and by more when they come in correlated runs.
    """
    p = joint / joint.sum(axis=(-2, -1), keepdims=True)
    expected = p.sum(axis=-1, keepdims=True) * p.sum(axis=-2, keepdims=True)
    ratio = np.divide(p, expected, out=np.ones_like(p), where=p > 0)
    nats: np.ndarray = np.maximum((p * np.log(ratio)).sum(axis=(-2, -1)), 0.0)
    return nats


def domain_information(
    experts: np.ndarray,
    windows: Windows,
    n_experts: int,
    *,
    first_choice: bool = False,
    draws: int = 200,
    seed: int = 0,
) -> DomainInformation:
    """Mutual information of chosen expert and domain, by layer, with its shuffled null.

    The null permutes the domain labels over whole windows. Neighbouring tokens
    share subject and experts, so shuffling single tokens would give a null that
    is far too small; the windows keep that dependence, and the mean of the null
    is the plug-in bias that the data's own runs of tokens cause.

    Args:
        experts: [L, R, S, K], the first choice first.
        windows: What it was measured on.
        n_experts: E.
        first_choice: Count each token's first choice only; by default all K
            choices count alike, as assignments.
        draws: Shuffles.
        seed: Of the shuffles.
    """
    chosen = experts[..., :1] if first_choice else experts
    counts = _window_counts(chosen, windows.counted, n_experts)  # [L, R, E]
    labels = np.eye(len(windows.domains))[windows.domain]  # [R, D]
    nats = mutual_information(np.einsum("rd,lre->lde", labels, counts))
    rng = np.random.default_rng(seed)
    null = np.empty((draws, len(nats)))
    for draw in range(draws):
        shuffled = rng.permutation(labels)
        null[draw] = mutual_information(np.einsum("rd,lre->lde", shuffled, counts))
    share = labels.T @ windows.counted.sum(axis=1)
    share = share[share > 0] / share.sum()
    low, high = np.quantile(null, [0.025, 0.975], axis=0)
    return DomainInformation(
        nats=nats,
        null_mean=null.mean(axis=0),
        null_low=low,
        null_high=high,
        # A hair of slack: the same labels summed in another order are not a smaller value.
        p_value=(1 + (null >= nats - 1e-12).sum(axis=0)) / (draws + 1),
        domain_entropy=float(-(share * np.log(share)).sum()),
        draws=draws,
        seed=seed,
    )


def evaluation_summary(
    measured: Mapping[str, Measurement],
    encoded: Mapping[str, EncodedDomain],
    windows: Windows,
    byte_lengths: np.ndarray,
    n_experts: int,
    *,
    draws: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything the model card says of held-out text, as plain numbers fit for JSON.

    Args:
        measured: "float" and "int8": the trained weights and the exported ones.
            Load and information are those of "int8", which is what is bundled.
        encoded: Streams by domain.
        windows: Held-out windows that both were measured on.
        byte_lengths: [V], as from `token_bytes`.
        n_experts: E.
        draws, seed: Of the shuffled null.
    """
    vocab_size = len(byte_lengths)
    losses = {
        name: domain_losses(measurement.nll, windows, byte_lengths)
        for name, measurement in measured.items()
    }
    baselines = {
        name: domain_losses(
            unigram_nll(encoded, windows, vocab_size, pooled=pooled), windows, byte_lengths
        )
        for name, pooled in (("unigram", True), ("unigram_of_domain", False))
    }
    bundled = measured["int8"]
    load = expert_load(bundled.experts, windows.counted, n_experts)
    information = {}
    for name, first in (("assignments", False), ("first_choice", True)):
        found = domain_information(
            bundled.experts, windows, n_experts, first_choice=first, draws=draws, seed=seed
        )
        information[name] = {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in vars(found).items()
        }
    return {
        "windows": len(windows.tokens),
        "sequence_length": windows.inputs.shape[1],
        "tokens": int(windows.counted.sum()),
        "loss": {**losses, **baselines},
        "int8_over_float": losses["int8"]["overall"]["nats_per_token"]
        / losses["float"]["overall"]["nats_per_token"],
        "expert_load": {"share": load.tolist(), "smallest": float(load.min())},
        "domain_information": information,
    }


def _window_counts(experts: np.ndarray, counted: np.ndarray, n_experts: int) -> np.ndarray:
    """Counts of each expert among a window's counted tokens: [L, R, S, K] -> [L, R, E]."""
    n_layers, n_windows = experts.shape[:2]
    counts = np.empty((n_layers, n_windows, n_experts))
    row, position = np.nonzero(counted)
    for layer in range(n_layers):
        chosen = experts[layer, row, position]  # [N, K]
        flat = row[:, None] * n_experts + chosen
        counts[layer] = np.bincount(flat.ravel(), minlength=n_windows * n_experts).reshape(
            n_windows, n_experts
        )
    return counts
