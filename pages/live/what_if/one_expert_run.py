"""One expert banned or given to every token, and the same done to others, to compare with."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lens.prompt_pairs import interventions
from pages.live.session import prompts, shared_models
from pages.live.session.shared_models import OnLoad, OnWait

if TYPE_CHECKING:
    from grok.experiments.what_if import WhatIf
    from grok.interventions.edits import Edits

# Other experts of the layer that the same is done to.
MOST_OTHERS = 15
SEED = 0


@dataclass(frozen=True)
class Request:
    """One intervention that was asked for; the text stays in this session.

    `layer` is the place of the layer among those with experts.
    """

    path: str
    dtype: str
    text: str
    layer: int
    expert: int
    action: str

    @property
    def prompt(self) -> tuple[str, str, str]:
        """Model, dtype and text: the same for every expert."""
        return self.path, self.dtype, self.text


@dataclass(frozen=True, eq=False)
class Result:
    """One intervention, and the same on other experts of the layer.

    Attributes:
        request: what was asked for.
        own: the run beside the one as it is.
        kl: of the other experts [other, T], nats.
        moved: share of tokens with other experts, of the others [other, L].
        others: the other experts [other].
        instead: KL where tokens lose their other expert instead [T], nats; None where not asked.
        other_choice: the other expert of each token that uses this one, else -1 [T].
        seconds: that it takes once everything is compiled.
    """

    request: Request
    own: WhatIf
    kl: np.ndarray
    moved: np.ndarray
    others: list[int]
    instead: np.ndarray | None
    other_choice: np.ndarray
    seconds: float


def edits_of(action: str, layer: int, expert: int) -> Edits:
    """The intervention on one expert of a layer, by the model's number of it."""
    from grok.interventions.edits import ban, edit, include

    if action == "ban":
        return edit("router.logits", ban(expert), layers=layer)
    return edit("router.experts", include(expert), layers=layer)


def edits_instead(layer: int, experts: np.ndarray, n_experts: int) -> Edits:
    """A ban of each token's own expert [T] in one layer; -1 bans nothing."""
    from grok.interventions.edits import add_vector, edit

    rows = np.zeros((experts.size, n_experts), np.float32)
    token = np.flatnonzero(experts >= 0)
    rows[token, experts[token]] = -np.inf
    return edit("router.logits", add_vector(rows), layers=layer)


def others_of(expert: int, n_experts: int) -> list[int]:
    """Other experts of the layer that the same is done to; a seeded few of many."""
    others = [e for e in range(n_experts) if e != expert]
    if len(others) > MOST_OTHERS:
        rng = np.random.default_rng(SEED)
        others = sorted(rng.choice(others, MOST_OTHERS, replace=False).tolist())
    return others


def computed(
    request: Request,
    choice: shared_models.ModelChoice,
    on_wait: OnWait,
    on_load: OnLoad,
) -> Result:
    """The intervention, and the same on the layer's other experts.

    Raises:
        GrokError: the prompt or the model cannot be used.
    """
    model = shared_models.shared(choice, request.dtype, on_load)
    tokens = prompts.encoded(model, choice, request.text)
    layer = choice.config.moe_layers[request.layer]

    def run(*experts: int) -> list[WhatIf]:
        edits = [edits_of(request.action, layer, expert) for expert in experts]
        return model.what_ifs(tokens, edits, on_wait=on_wait)

    others = others_of(request.expert, choice.config.n_experts)
    if choice.streamed:  # in as few passes as can be
        own, *found = run(request.expert, *others)
        seconds = np.inf
    else:
        own, *found = run(request.expert, *others[:-1])
        started = time.perf_counter()  # what is compiled was compiled before
        found += run(others[-1])
        seconds = (time.perf_counter() - started) * (len(others) + 2)
    other_choice = interventions.other_choice(own.base, request.layer, request.expert, seed=SEED)
    instead = None
    if request.action == "ban" and (other_choice >= 0).any():
        edits = edits_instead(layer, other_choice, choice.config.n_experts)
        instead = model.what_if(tokens, edits, on_wait=on_wait).kl
    return Result(
        request,
        own,
        np.stack([one.kl for one in found]),
        np.stack([interventions.moved(one.base, one.changed) for one in found]),
        others,
        instead,
        other_choice,
        seconds,
    )
