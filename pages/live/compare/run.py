"""Two runs to compare: of two texts, or of one text as it is and under a change."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from grok.errors import PromptError
from lens.prompt_pairs import interventions
from lens.prompt_pairs.alignment import Alignment, align, same_place
from lens.prompt_pairs.paired_routing import Paired, paired
from lens.traces import RoutedText
from pages.live.one_trace.routing_statistics import trace_key
from pages.live.session import prompts, shared_models
from pages.live.session.shared_models import OnLoad, OnWait

if TYPE_CHECKING:
    from grok.experiments.what_if import WhatIf
    from grok.interventions.edits import Edits

CHANGES = {
    "ban": "Ban an expert",
    "include": "Give an expert to every token",
    "temperature": "Temperature of the router",
}
# Next tokens that are listed: the more, the closer the bounds of a change.
CANDIDATES = 40
# Times the same is done elsewhere, to have something to hold a change against.
MOST_OTHERS = 7
SEED = 0
ALL = -1  # in place of a layer
TEXTS = ("first text", "second text")
RUNS = ("as it is", "changed")


@dataclass(frozen=True)
class Change:
    """One intervention on the routers.

    Attributes:
        kind: a name in `CHANGES`.
        layer: its place among the layers with experts, or `ALL`.
        expert: of a ban, or one that every token gets.
        temperature: the logits are divided by it.
    """

    kind: str
    layer: int
    expert: int = 0
    temperature: float = 1.0

    def text(self, labels: list[str]) -> str:
        """The change in words."""
        where = "all layers" if self.layer == ALL else labels[self.layer]
        if self.kind == "temperature":
            return f"Router temperature {self.temperature:g} in {where}"
        name = f"{where}·E{self.expert}"
        return f"Banning {name}" if self.kind == "ban" else f"Giving every token {name}"

    def layers(self, n_layers: int) -> tuple[int, ...]:
        """The places, of so many layers with experts, whose routers are changed."""
        return tuple(range(n_layers)) if self.layer == ALL else (self.layer,)

    def elsewhere(self, n_layers: int, n_experts: int) -> list[Change]:
        """The same on other experts of the layer, or in other layers; a seeded few of many."""
        if self.layer == ALL:
            return []
        if self.kind == "temperature":
            others = [
                Change(self.kind, layer, self.expert, self.temperature)
                for layer in range(n_layers)
                if layer != self.layer
            ]
        else:
            others = [
                Change(self.kind, self.layer, expert)
                for expert in range(n_experts)
                if expert != self.expert
            ]
        if len(others) > MOST_OTHERS:
            order = np.random.default_rng(SEED).permutation(len(others))[:MOST_OTHERS]
            others = [others[i] for i in sorted(order)]
        return others

    def edits(self, moe_layers: Sequence[int]) -> Edits:
        """The change as `grok` takes it, by the model's numbers of its layers with experts."""
        from grok.interventions.edits import ban, edit, include, temperature

        layers = None if self.layer == ALL else moe_layers[self.layer]
        if self.kind == "temperature":
            return edit("router.logits", temperature(self.temperature), layers=layers)
        if self.kind == "ban":
            return edit("router.logits", ban(self.expert), layers=layers)
        return edit("router.experts", include(self.expert), layers=layers)


@dataclass(frozen=True, eq=False)
class Result:
    """Two runs of this session.

    Attributes:
        first: trace of one run.
        second: trace of the other.
        alignment: of their tokens.
        names: of the runs.
        change: what was changed; None for two texts.
        kl: KL(as it is ‖ changed) after each token [T], nats; None for two texts.
        others: mean KL of the same change elsewhere [other].
        kept: see `kept_outside`; None for two texts.
        others_kept: the same of the change elsewhere [other].
    """

    first: RoutedText
    second: RoutedText
    alignment: Alignment
    names: tuple[str, str]
    change: Change | None = None
    kl: np.ndarray | None = None
    others: np.ndarray | None = None
    kept: float | None = None
    others_kept: np.ndarray | None = None

    @cached_property
    def key(self) -> str:
        """Hash of both runs and of what is compared of them."""
        digest = hashlib.sha256(repr((self.change, self.same_model)).encode())
        for trace in (self.first, self.second):
            digest.update(trace_key(trace).encode())
            for array in (trace.candidates, trace.candidate_probs):
                digest.update(f"{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def runs(self) -> Paired:
        """Both runs with the tokens that are compared."""
        return paired(
            self.first,
            self.second,
            self.alignment,
            leave_out_start=self.same_model,
            changed_layers=() if self.change is None else self.change.layers(self.n_layers),
        )

    @property
    def same_model(self) -> bool:
        """True where both runs are of one model, without anything changed in either."""
        changed = [
            self.change,
            *(trace.settings.get("interventions") for trace in (self.first, self.second)),
        ]
        return self.first.model_sha256 == self.second.model_sha256 and not any(changed)

    @property
    def n_layers(self) -> int:
        return int(self.first.router_logits.shape[0])


def two_texts(
    choice: shared_models.ModelChoice,
    dtype: str,
    text: str,
    other: str,
    on_wait: OnWait,
    on_load: OnLoad,
) -> Result:
    """Both texts run by one model, aligned by token.

    Raises:
        GrokError: a text or the model cannot be used.
        LensError: the texts are too long to align.
    """
    if not (text.strip() and other.strip()):  # before a model is read for nothing
        raise PromptError("One of the two prompts is empty. Type both texts, or choose an example.")
    model = shared_models.shared(choice, dtype, on_load)
    tokens = [prompts.encoded(model, choice, one) for one in (text, other)]
    first, second = model.trace_all(tokens, on_wait=on_wait, candidates=listed(choice))
    for trace, one in ((first, text), (second, other)):
        prompts.note_trace(trace, choice, one, dtype)
    return Result(first, second, align(*tokens), TEXTS)


def two_traces(first: RoutedText, second: RoutedText, names: tuple[str, str]) -> Result:
    """Two traces that were made before, aligned by token.

    Raises:
        LensError: they are of models of other shapes, or too long to align.
    """
    result = Result(first, second, align(first.tokens, second.tokens), names)
    result.runs()  # refused here, not while its figures are drawn
    return result


def one_change(
    choice: shared_models.ModelChoice,
    dtype: str,
    text: str,
    change: Change,
    on_wait: OnWait,
    on_load: OnLoad,
) -> Result:
    """A text as it is and under a change, and the effect of the same change elsewhere.

    Raises:
        GrokError: the text, the model or the change cannot be used.
    """
    prompts.check_text(text)
    model = shared_models.shared(choice, dtype, on_load)
    tokens = prompts.encoded(model, choice, text)

    layers = choice.config.moe_layers
    elsewhere = change.elsewhere(len(layers), choice.config.n_experts)
    own, *found = model.what_ifs(
        tokens,
        [one.edits(layers) for one in (change, *elsewhere)],
        on_wait=on_wait,
        candidates=listed(choice),
    )
    others = list(zip(elsewhere, found, strict=True))
    return Result(
        own.base,
        own.changed,
        alignment=same_place(len(tokens)),
        names=RUNS,
        change=change,
        kl=own.kl,
        others=np.array([found.kl.mean() for _, found in others]),
        kept=kept_outside(own, change),
        others_kept=np.array([kept_outside(found, one) for one, found in others]),
    )


def kept_outside(found: WhatIf, change: Change) -> float:
    """Share of experts kept in all layers but the changed ones; in all, where all are changed."""
    kept = interventions.overlap(found.base, found.changed)
    outside = np.setdiff1d(np.arange(len(kept)), change.layers(len(kept)))
    return float(kept[outside].mean() if len(outside) else kept.mean())


def listed(choice: shared_models.ModelChoice) -> int:
    """Number of next tokens that a trace lists."""
    return int(min(CANDIDATES, choice.config.vocab_size))
