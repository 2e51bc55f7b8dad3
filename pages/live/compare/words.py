"""What is said first of two runs, and the numbers behind it."""

from __future__ import annotations

from collections.abc import Callable

from lens.errors import LensError
from lens.finding import Finding
from lens.findings import of_pairs
from lens.prompt_pairs import interventions
from lens.words import counted, fixed, p_value_text, percent, significant
from pages.live.compare import run, significance
from pages.live.compare.views import Comparison

KEPT_EXPERTS = "kept"


def details(comparison: Comparison, what: str) -> str:
    """The differences beside chance, in words."""
    parts: list[Callable[[], str]] = []
    if comparison.result.change is None:
        parts += [lambda: agreement_words(comparison), lambda: next_words(comparison)]
    else:
        parts += [lambda: change_words(comparison)]
    if what != KEPT_EXPERTS:
        parts += [lambda: significance.difference_words(comparison, what)]
    elif comparison.result.change is None:
        parts += [lambda: significance.fading_words(comparison)]
    said = []
    for words in parts:
        try:
            said.append(words().replace("**", ""))
        except LensError:  # its tab says why
            continue
    return " ".join(said)


def finding(comparison: Comparison, what: str) -> Finding:
    """The differences beside chance; what the map shows beside them is in the details."""
    result, detail = comparison.result, details(comparison, what)
    if result.change is None:
        return of_pairs.kept_experts(comparison.agreement(), detail)
    assert result.kl is not None and result.others is not None
    change = result.change
    done = change.text(comparison.labels)
    if not result.others.size:
        return Finding(f"{done} is compared with the text as it is.", "not asked", detail)
    without = f"Without {done.split()[-1]}" if change.kind == "ban" else ""
    where = "other layers" if change.kind == "temperature" else "other experts of its layer"
    used = change.kind != "ban" or interventions.use(result.first, change.layer, change.expert) > 0
    among = interventions.among_others(float(result.kl.mean()), result.others)
    return of_pairs.one_change(done, without, among, where, detail, used=used)


def agreement_words(comparison: Comparison) -> str:
    """Experts that the same tokens keep, in words."""
    found, start = comparison.agreement(), comparison.runs.common_start
    shared = len(comparison.runs.pairs)
    after = " after their first difference" if start or comparison.result.same_model else ""
    return (
        f"{counted(shared, 'token')} {'stands' if shared == 1 else 'stand'} in both texts{after}. "
        f"They keep {percent(found.value)} of their experts (unrelated tokens of the two share "
        f"{percent(found.mean)}, {significance.chance(found.p, found.blocks, found.test.draws)})."
    )


def next_words(comparison: Comparison) -> str:
    """Change of the next tokens expected after the same tokens, in words."""
    after = comparison.expected()
    return (
        "What they expect next changes by a total variation of at least "
        f"{fixed(after.value, 2)} (unrelated places {fixed(after.mean, 2)}, "
        f"{significance.chance(after.p, after.blocks, after.draws)})."
    )


def change_words(comparison: Comparison) -> str:
    """Effect of a change, beside the same elsewhere, in words."""
    result = comparison.result
    change, kl, others, others_kept = result.change, result.kl, result.others, result.others_kept
    assert change is not None and kl is not None and result.kept is not None
    assert others is not None and others_kept is not None
    value = float(kl.mean())
    outside = "in all layers" if change.layer == run.ALL else "in the other layers"
    text = (
        f"{change.text(comparison.labels)} changes what the model expects next by "
        f"{significant(value)} nats "
        f"a token (KL). Of {counted(len(comparison.runs.pairs), 'token')}, "
        f"{percent(result.kept, 1)} of the experts stay {outside}."
    )
    if not others.size:
        return text
    where = "layers" if change.kind == "temperature" else "experts of the layer"
    return (
        f"{text} The same on {others.size} other {where}: {significant(others.min())} to "
        f"{significant(others.max())} nats ({verdict(interventions.among_others(value, others))}), "
        f"{percent(others_kept.min(), 1)} to {percent(others_kept.max(), 1)} kept."
    )


def verdict(among: interventions.AmongOthers) -> str:
    """The rank of a change among the same ones elsewhere, in words."""
    count = among.others.size + 1
    rank = f"rank {among.rank} of {count}, p {p_value_text(among.p)}"
    if among.p <= 0.05:
        return rank
    if among.rank == 1:
        return f"{rank}: more than each of them, which is all that {count} can show"
    return f"{rank}: not distinguishable from chance"
