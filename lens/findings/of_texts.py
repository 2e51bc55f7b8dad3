"""What the routing of one text says first: busiest experts, kinds of tokens, generated tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from lens.errors import LensError
from lens.finding import Finding, Verdict, verdict_of
from lens.prompt_pairs.agreement import Agreement
from lens.traces import load_null, routing
from lens.traces.continuation import PartLoads
from lens.traces.contrast import Contrast, EqualTokens
from lens.traces.protocols import RoutedTokens
from lens.words import fixed, p_value_text, percent

LEVEL = 0.05
FEWEST = 2  # tokens; one by itself prefers nothing
PART = 1e-9


def busiest_expert(trace: RoutedTokens, names: Sequence[str]) -> Finding:
    """The expert that most tokens of a text go to, beside even choices of as many tokens.

    Neighbouring tokens are alike, so the null draws for as many independent tokens as the text
    is worth, see `lens.traces.load_null.choice_times`; all experts of all layers are looked at
    together (Bonferroni).

    Args:
        trace: the text.
        names: of its layers.
    """
    n_layers, n_tokens, n_experts = trace.router_logits.shape
    top_k = trace.experts.shape[2]
    load = routing.load(trace)
    times = load_null.choice_times(trace)
    high = np.array(
        [_most_by_chance(round(n_tokens / time), top_k, n_experts, load.size) for time in times]
    )
    beyond = load > high[:, None] + PART
    layer, expert = (
        int(i) for i in np.unravel_index(np.argmax(np.where(beyond, load + 1, load)), load.shape)
    )
    found = bool(beyond[layer, expert])
    most = float(load[layer, expert])
    told = "more than" if found else "not distinguishable from"
    detail = (
        f"Of {n_tokens:,} {'token' if n_tokens == 1 else 'tokens'}, {names[layer]}·E{expert} took "
        f"the largest share, {percent(most)} of its layer's assignments, which is "
        f"{percent(most * top_k)} of the tokens: {told} chance (even {percent(1 / n_experts, 1)}; "
        f"by chance no expert above {percent(float(high[layer]))} in 95\u00a0% of texts, each of "
        f"{fixed(n_tokens / times[layer], 0)} independent tokens, which these are worth)."
    )
    if n_tokens >= FEWEST:
        repeat = routing.repeat_rate(trace)
        detail += (
            f" Neighbouring tokens share their first expert in {percent(repeat.first.mean())} "
            f"of cases (chance {percent(repeat.chance_first, 1)}; same tokens shuffled "
            f"{percent(repeat.shuffled_first.mean())})."
        )
    verdict: Verdict = "found" if found else "not told from chance"
    everything = ((load * top_k >= 1 - PART) & beyond).any(axis=1)
    share = percent(most * top_k)
    if n_tokens < FEWEST:
        sentence = "One token alone shows no preference of an expert; type a longer text."
        verdict = "not asked"
    elif not found:
        sentence = "No expert gets more of these tokens than chance would give it."
    elif everything.sum() > 1:
        where = f"{everything.sum()} of {n_layers} layers"
        where = "every layer" if everything.all() else where
        sentence = f"In {where} one expert gets every token of this text."
    elif everything.any():
        sentence = f"{names[layer]}·E{expert} gets every token of this text."
    else:
        sentence = f"{names[layer]}·E{expert} gets {share} of the tokens, more than by chance."
    return Finding(
        sentence,
        verdict,
        detail,
        effect=most,
        effect_name="largest share of a layer's assignments",
        null_mean=1 / n_experts,
        null_high=float(high[layer]),
        beats="even choices of as many independent tokens",
        place=(layer, expert),
    )


def _most_by_chance(n_tokens: int, top_k: int, n_experts: int, comparisons: int) -> float:
    band = routing.load_interval(max(1, n_tokens), top_k, n_experts, comparisons=comparisons)
    return band[1]


def kind_contrast(
    found: Contrast, unit: str, names: tuple[str, str], kind: Bool[np.ndarray, " token"]
) -> Finding:
    """The expert that tells tokens of a kind from the others, beside the same pattern elsewhere.

    Args:
        found: the strongest contrast.
        unit: name of its expert.
        names: of the kind and of the others.
        kind: which tokens are of the kind.
    """
    inside, outside = names
    told = "more than" if found.p <= LEVEL else "not distinguishable from"
    detail = (
        f"{unit} is chosen by {percent(found.inside)} of {found.n_inside} {inside} and "
        f"{percent(found.outside)} of {found.n_outside} {outside}, the largest difference "
        f"of any expert: {told} what the same pattern gives elsewhere in the text (there "
        f"{percent(found.usual)} on average; p {p_value_text(found.p)}, all {found.turns} turns)."
    )
    if np.count_nonzero(np.diff(kind.astype(int))) <= 2:
        detail += " They stand in one part of the text, so place and topic count too."
    if found.p > LEVEL:
        sentence = f"No expert tells {inside} from {outside} by more than chance."
    else:
        more, less = sorted((found.inside, found.outside), reverse=True)
        most, others = names if found.inside >= found.outside else names[::-1]
        share = "all" if more > 1 - PART else percent(more)
        rest = "none" if less < PART else "few" if less < more / 2 else "fewer"
        sentence = f"{unit} takes {share} of the {most} and {rest} of the {others}."
    return Finding(
        sentence,
        verdict_of(found.p, found.p <= LEVEL),
        detail,
        effect=found.inside - found.outside,
        effect_name=f"share of {inside} less share of {outside} that choose {unit}",
        null_mean=found.usual,
        beats="the same pattern elsewhere in the text",
        p_value=found.p,
        draws=found.turns,
        place=(found.layer, found.expert),
    )


def equal_tokens_share(found: EqualTokens, more: str = "") -> Finding:
    """Experts shared by equal tokens, beside pairs as close to each other.

    Args:
        found: the shares.
        more: said after the numbers.
    """
    detail = (
        f"Two equal tokens share {percent(found.same.mean())} of their experts, two others "
        f"{percent(found.other.mean())}, two as close to each other {percent(found.near)} "
        f"({found.pairs} {'pair' if found.pairs == 1 else 'pairs'}; p "
        f"{p_value_text(found.p, found.draws)}, ids of each stretch turned round "
        f"{found.draws:,} times, seed {found.seed}).{more}"
    )
    sentence = "Equal tokens share no more experts than their neighbours do."
    if found.p <= LEVEL:
        share = percent(found.same.mean())
        sentence = f"Equal tokens keep {share} of their experts, whatever stands around them."
    return Finding(
        sentence,
        verdict_of(found.p, found.p <= LEVEL),
        detail,
        effect=float(found.same.mean()),
        effect_name="share of experts that equal tokens have in common",
        null_mean=found.near,
        beats="tokens as close to each other",
        p_value=found.p,
        draws=found.draws,
        seed=found.seed,
    )


def one_word(found: Agreement) -> Finding:
    """Experts shared by the tokens of two texts from the first word on in which these differ."""
    after = np.flatnonzero(
        (found.partner >= 0) & (np.arange(len(found.partner)) >= found.common_start)
    )
    near, far = after[:4], after[4:]
    if len(far) == 0 or found.test is None:
        return Finding("These texts differ up to their ends.", "not asked")
    near_share, far_share = (percent(found.shared[:, part].mean()) for part in (near, far))
    test = found.test
    detail = (
        f"The first four tokens from the changed word on share {near_share} of their experts with "
        f"those of the other text, the {len(far)} after them {far_share}; the same tokens paired "
        f"at random {percent(test.mean.mean())} ({test.draws:,} times, seed {test.seed}), even "
        f"choices {percent(found.even)}; more than at random in {test.found()} of {len(test.q)} "
        "layers (q ≤ 0.05)."
    )
    told = test.found() > 0
    sentence = "After the changed word the texts share no more experts than random pairs do."
    if told:
        sentence = f"One changed word, and {far_share} of the experts after it stay the same."
    return Finding(
        sentence,
        "found" if told else "not told from chance",
        detail,
        effect=float(found.shared[:, far].mean()),
        effect_name="share of experts in common after the change",
        null_mean=float(test.mean.mean()),
        beats="the same tokens paired at random",
        p_value=float(np.nanmin(test.q)),
        draws=test.draws,
        seed=test.seed,
    )


def generated_tokens(found: PartLoads | LensError, detail: str) -> Finding:
    """Whether routing jumps where generation begins, beside the text's other borders.

    Args:
        found: loads of both parts, or why there are none.
        detail: the same in full.
    """
    if isinstance(found, LensError) or found.jump is None:
        short = "The text is too short to tell whether the model's own words go elsewhere."
        return Finding(short, "not asked", detail)
    jump = found.jump
    sentence = "No jump in the routing could be told where the model's own words begin."
    if jump.overall_p <= LEVEL:
        share = percent(jump.test.value.mean())
        sentence = f"The routing jumps where the model's own words begin: {share} go elsewhere."
    return Finding(
        sentence,
        verdict_of(jump.overall_p, jump.overall_p <= LEVEL),
        detail,
        effect=float(jump.test.value.mean()),
        effect_name="share of assignments that move at the border",
        null_mean=float(jump.test.mean.mean()),
        beats="the other borders of the text",
        p_value=jump.overall_p,
        draws=jump.places,
    )
