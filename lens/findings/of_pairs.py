"""What two runs say first: two texts, an expert changed, all experts in turn, a value put in."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lens.finding import Finding, Verdict, verdict_of
from lens.prompt_pairs.interventions import AmongOthers, Carried
from lens.prompt_pairs.paired_tests import AgreementTest
from lens.words import percent, ratio_in_words

LEVEL = 0.05
AS_MUCH = 0.8  # of what a value brings back; a control above it does as well


def kept_experts(found: AgreementTest, detail: str) -> Finding:
    """The experts that the same tokens keep in another text, beside unrelated tokens.

    Args:
        found: the shares and their test.
        detail: the same in full.
    """
    verdict = verdict_of(found.p, found.p <= LEVEL)
    share = percent(found.value)
    sentence = f"The same tokens keep {share} of their experts in both texts."
    if found.blocks.too_few:
        verdict = "not asked"
        sentence = "The texts share too few tokens to tell whether these keep their experts."
    elif verdict != "found":
        sentence = "The same tokens keep no more experts than unrelated tokens share."
    return Finding(
        sentence,
        verdict,
        detail,
        effect=found.value,
        effect_name="share of experts that the same tokens keep",
        null_mean=found.mean,
        beats="unrelated tokens of both texts",
        p_value=found.p,
        draws=found.test.draws,
        seed=found.test.seed,
    )


def one_change(
    done: str, without: str, among: AmongOthers, others: str, detail: str, *, used: bool = True
) -> Finding:
    """How much a change moves what the model expects, beside the same change elsewhere.

    With few others the smallest p-value that a rank can have is large: the change that moves
    most is then said to, and not called a finding.

    Args:
        done: the change as the subject of a sentence, "Giving every token L2·E3".
        without: the same as its beginning, "Without L2·E3"; empty where it takes nothing away.
        among: its effect and those elsewhere.
        others: where else, "other experts of its layer".
        detail: the same in full.
        used: whether any token uses what is taken away.
    """
    verdict = verdict_of(among.p, among.p <= LEVEL)
    if not used:
        verdict = "not told from chance"
        sentence = f"{done} changes nothing, for no token uses it."
    elif among.rank > 1:
        sentence = f"{done} changes the model's guesses no more than some {others} do."
        verdict = "not told from chance"
    else:
        if verdict != "found":
            verdict = "not asked"
        how = ratio_in_words(among.value, float(among.others.max()))
        subject = f"{without} the model's guesses change" if without else f"{done} changes guesses"
        sentence = f"{subject} {how} with any of the {others}."
        if without:
            sentence = sentence.replace(" with any", " without any")
    return Finding(
        sentence,
        verdict,
        detail,
        effect=among.value,
        effect_name="KL a token, nats",
        null_mean=float(among.others.mean()),
        null_low=float(among.others.min()),
        null_high=float(among.others.max()),
        beats=f"the same with {others}",
        p_value=among.p,
        draws=int(among.others.size),
    )


def most_needed(
    size: Float[np.ndarray, "layer expert"], cell: tuple[int, int], name: str, detail: str
) -> Finding:
    """The expert with the largest effect of all, beside the next of its layer; nothing is tested.

    Args:
        size: effects.
        cell: row and expert of the largest.
        name: of that expert.
        detail: the same in full.
    """
    value = float(size[cell])
    others = np.delete(size[cell[0]], cell[1])
    if not value > 0:
        sentence = "No expert matters for this text: nothing changes without any of them."
        return Finding(sentence, "not told from chance", detail, effect=value)
    how = ratio_in_words(value, float(others.max()))
    sentence = f"{name} matters most for this text, {how} the next expert of its layer."
    return Finding(
        sentence,
        "not asked",
        detail,
        effect=value,
        effect_name="largest effect of an expert",
        null_mean=float(others.mean()),
        null_low=float(others.min()),
        null_high=float(others.max()),
        beats="other experts of its layer",
    )


def brought_back(found: Carried, layer: str, piece: str, position: int, detail: str) -> Finding:
    """The place whose value brings most of another prompt's answer back, beside the control there.

    Args:
        found: the shares that come back.
        layer: name of the layer of the largest.
        piece: token of the clean prompt that it stands at.
        position: its place, named where the token is no word.
        detail: the same in full.
    """
    best = int(found.largest.argmax())
    share, control = float(found.largest[best]), float(found.control[best])
    word = piece.strip("▁· ")
    where = f"{layer} at “{word}”" if word.isalpha() else f"{layer} at token {position}"
    verdict: Verdict = "not asked"
    if share < LEVEL:
        sentence = "No single value of the clean text brings its answer back."
    elif control > AS_MUCH * share:
        verdict = "not told from chance"
        sentence = f"One value in {where} brings the answer back, but any other token's does too."
    else:
        back = percent(share)
        sentence = f"One value in {where} brings back {back} of the answer; another's does not."
        if control > 0.3 * share:
            sentence = sentence.replace("another's does not", "another's brings less")
    return Finding(
        sentence,
        verdict,
        detail,
        effect=share,
        effect_name="share of the difference that one value brings back",
        null_mean=control,
        beats="another token's value in the same place",
    )
