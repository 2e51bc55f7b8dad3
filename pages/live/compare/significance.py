"""Tests of the difference between two runs: one tab a question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import streamlit as st

from lens import figures
from lens.escaping import as_markdown
from lens.figures.prompt_pairs import routing as routing_figures
from lens.figures.prompt_pairs import tokens as token_figures
from lens.prompt_pairs.next_token_change import expected_tokens
from lens.prompt_pairs.token_blocks import TokenBlocks
from lens.storage import csv_text
from lens.tables import traces as trace_tables
from lens.words import fixed, p_value_text, percent, significant
from pages.live.compare.run import Result
from pages.live.compare.views import SHOWN, Comparison, pick_pair
from pages.shell.picks import pick_layer

PARTS = {
    "agreement": "Agreement",
    "fading": "Fading",
    "difference": "Difference by layer",
    "loads": "Loads",
    "next": "Next tokens",
}


def quantity(what: str) -> str:
    """The quantity that is tested: that of the map, or the margin where it shows experts."""
    return "margin" if what == "kept" else what


def chance(p: float, blocks: TokenBlocks, draws: int | None = None) -> str:
    """A p-value of a test of blocks, or that there are too few independent tokens for one."""
    if blocks.too_few:
        return "too few independent tokens to tell"
    return f"p {p_value_text(p, draws)}"


def few_note(blocks: TokenBlocks) -> None:
    """Says why nothing is told, where there are too few independent tokens."""
    if blocks.too_few:
        st.caption(
            f":material/info: Too few independent tokens: {blocks.text}, worth "
            f"{fixed(blocks.effective, 1)} stretches that have little to do with each other; "
            "expected six or more of both. Compare longer texts."
        )


def agreement(comparison: Comparison) -> None:
    """Experts that the same tokens keep, by layer, beside unrelated tokens."""
    found = comparison.agreement()
    n_cells = found.test.value.size * len(comparison.runs.pairs)
    st.markdown(
        f"The same tokens keep **{percent(found.value, 1)}** of their experts; unrelated "
        f"tokens of the two runs share {percent(found.mean, 1)} "
        f"({chance(found.p, found.blocks, found.test.draws)}). "
        f"{found.changed:,} of {n_cells:,} cells have another set. Null: {found.test.method}, "
        f"seed {found.test.seed}. Above it a token's identity decides; what is missing to "
        "100\u00a0% is its context."
    )
    few_note(found.blocks)
    tests = {"experts in common": found.test}
    comparison.figure(
        figures.chance_lines(
            tests,
            comparison.labels,
            title="Experts that the same tokens keep",
            unit="share of experts",
        ),
        "agreement",
        stretch=True,
        table=lambda: trace_tables.chance_csv(tests, comparison.labels, "share of experts"),
    )


def fading(comparison: Comparison) -> None:
    """Experts kept by the distance from the last change of the text."""
    if comparison.result.change is not None:
        st.info("One text under a change is changed everywhere, so there is no distance from it.")
        return
    found = comparison.fading()
    st.markdown(f"{fading_words(comparison)} Null: {found.method}, seed {found.seed}.")
    few_note(found.blocks)
    names = [comparison.pair_names[p] for p in comparison.runs.pairs]
    comparison.figure(
        token_figures.kept_by_distance(
            found.distance,
            found.kept,
            names,
            chance=comparison.agreement().mean,
            correlation=found.correlation,
            low=found.low,
            high=found.high,
            p=found.p,
        ),
        "fading",
        stretch=True,
        table=lambda: csv_text.table_csv(
            {
                "token": names,
                "same tokens since the last change": found.distance,
                "experts in common (share)": found.kept,
            }
        ),
    )


def fading_words(comparison: Comparison) -> str:
    """Correlation of experts kept with the distance from a change, with null and p, in words.

    Raises:
        LensError: there are too few tokens to tell.
    """
    found = comparison.fading()
    correlation, low, high = (
        fixed(value, 2, sign=True) for value in (found.correlation, found.low, found.high)
    )
    numbers = (
        f"the rank correlation of experts kept with the distance from the last change is "
        f"**{correlation}** (by chance {low} to {high}, "
        f"{chance(found.p, found.blocks, found.draws)})."
    )
    if found.p > 0.05 or found.blocks.too_few:
        return f"Whether the difference fades is not distinguishable from chance: {numbers}"
    way = "comes together again" if found.correlation > 0 else "drifts further apart"
    return f"The texts' routing {way} with the tokens that they share: {numbers}"


def difference(comparison: Comparison, what: str) -> None:
    """Mean difference of a quantity by layer, beside flipped signs."""
    what = quantity(what)
    found = comparison.difference(what)
    st.markdown(
        f"{difference_words(comparison, what)} Null: {found.test.method}, seed {found.test.seed}."
    )
    few_note(found.blocks)
    tests = {SHOWN[what].lower(): found.test}
    names = comparison.result.names
    comparison.figure(
        figures.chance_lines(
            tests,
            comparison.labels,
            title=f"{SHOWN[what]}: {names[0]} less {names[1]}",
            unit=f"mean difference ({comparison.first.chosen_by.of(what)})",
        ),
        "difference",
        words=(what,),
        stretch=True,
        table=lambda: trace_tables.chance_csv(
            tests, comparison.labels, comparison.first.chosen_by.of(what)
        ),
    )


def difference_words(comparison: Comparison, what: str) -> str:
    """Difference of a quantity by layer, with null and p, in words."""
    found = comparison.difference(what)
    test = found.test
    asked = int(np.isfinite(test.q).sum())
    name = SHOWN[what]
    if not comparison.runs.tested.any():
        return f"{name}: every layer is changed by hand, so a difference there is no finding."
    layers = "layers" if comparison.runs.tested.all() else "other layers"
    if asked == 0:
        return f"{name} is the same in all {layers}."
    count = found.blocks.count
    blocks = f"{count} block{'' if count == 1 else 's'}"
    null = f"q ≤ 0.05; {chance(found.p, found.blocks)} over all; signs of {blocks} flipped"
    if found.blocks.too_few:
        return (
            f"{name} differs in {asked} {layers}; whether beyond chance, too few independent "
            f"tokens tell (signs of {blocks} flipped)."
        )
    if not test.found():
        return (
            f"{name}: not distinguishable from chance in any of the {asked} {layers} that differ "
            f"at all ({null})."
        )
    top = int(np.nanargmax(np.where(np.nan_to_num(test.q, nan=1) <= 0.05, abs(test.value), -1)))
    size, low, high = (
        fixed(value[top], 3, sign=True) for value in (test.value, test.low, test.high)
    )
    unit = comparison.first.chosen_by.of(what)
    return (
        f"{name} differs in **{test.found()} of {asked}** {layers} ({null}), most in "
        f"{comparison.labels[top]}: {size} {unit} on average, by chance "
        f"{low} to {high}."
    )


def loads(comparison: Comparison, layer: int) -> None:
    """Loads of the same tokens in both runs."""
    found = comparison.loads()
    rare = np.nan_to_num(found.q, nan=1) <= 0.05
    asked = int(np.isfinite(found.q).sum())
    at = np.unravel_index(np.nanargmax(np.abs(found.difference)), found.difference.shape)
    unit = f"{comparison.labels[int(at[0])]}·E{int(at[1])}"
    st.markdown(
        (
            f"**{int(rare.sum())} of {asked}** experts that tokens change to or from have another "
            "load in the two runs (q ≤ 0.05)."
            if rare.any() and not found.blocks.too_few
            else f"Loads are not distinguishable from chance: none of {asked} experts that tokens "
            "change to or from at q ≤ 0.05."
        )
        + f" Most: {unit}, {percent(found.first[at], 1)} and "
        f"{percent(found.second[at], 1)}. Null: {found.method}, seed {found.seed}; no p "
        f"below {significant(found.smallest_p, 2)}; Benjamini–Hochberg over all."
    )
    few_note(found.blocks)
    expert = int(np.argmax(np.abs(found.difference[layer])))
    row, number = (grid.ravel() for grid in np.indices(found.difference.shape))
    comparison.figure(
        routing_figures.load_differences(
            found.difference,
            found.q,
            comparison.labels,
            runs=comparison.result.names,
            picked=(layer, expert),
        ),
        "loads",
        on_pick=pick_layer,
        table=lambda: csv_text.table_csv(
            {
                "layer": np.asarray(comparison.labels)[row],
                "expert (index in its layer)": number,
                f"load, {comparison.result.names[0]}": found.first.ravel(),
                f"load, {comparison.result.names[1]}": found.second.ravel(),
                "difference": found.difference.ravel(),
                "p": found.p.ravel(),
                "q (Benjamini–Hochberg)": found.q.ravel(),
            }
        ),
    )


def next_tokens(comparison: Comparison, pair: int) -> None:
    """Change of the expected next tokens, along the text and after the chosen token."""
    found = comparison.expected()
    result = comparison.result
    st.markdown(
        f"Total variation of the next-token distributions after the same token: at least "
        f"**{fixed(found.value, 3)}** and at most {fixed(found.high.mean(), 3)} on average, for "
        "the runs list "
        f"their {result.first.candidates.shape[1]} likeliest tokens alone; the likeliest is "
        f"another in {percent(found.likeliest.mean())} of the places. Unrelated places: at "
        f"least {fixed(found.mean, 3)} (as little change: "
        f"{chance(found.p, found.blocks, found.draws)}). Null: {found.method}, "
        f"seed {found.seed}."
    )
    few_note(found.blocks)
    columns: dict[str, Sequence[object] | np.ndarray] = {
        "token": [comparison.pair_names[p] for p in found.pairs],
        "total variation, at least": found.low,
        "total variation, at most": found.high,
        "another likeliest token": found.likeliest,
    }
    if result.kl is not None:
        most = figures.visible(comparison.first.pieces[int(result.kl.argmax())])
        columns["KL as it is ‖ changed (nats)"] = result.kl[comparison.runs.at[0]]
        st.caption(
            f"KL(as it is ‖ changed), over the whole vocabulary: {significant(result.kl.mean())} "
            f"nats a token, at most {significant(result.kl.max())} after “{as_markdown(most)}”."
        )
    comparison.figure(
        token_figures.change_along(
            found.pairs,
            found.low,
            found.high,
            comparison.pair_names,
            chance=(found.mean, found.mean_low, found.mean_high),
            picked=pair,
        ),
        "change_along",
        on_pick=pick_pair,
        table=lambda: csv_text.table_csv(columns),
    )
    position, other_position = (
        int(places[pair]) for places in (result.alignment.first, result.alignment.second)
    )
    if position < 0 or other_position < 0:
        st.caption("The chosen token stands in one text alone; choose another to see what follows.")
        return
    after_token(comparison, pair, position, other_position)


def after_token(comparison: Comparison, pair: int, position: int, other_position: int) -> None:
    """Next tokens that both runs expect after the chosen token.

    Args:
        comparison: both runs.
        pair: the chosen token.
        position: its place in the first run.
        other_position: its place in the second run.
    """
    result = comparison.result
    after = expected_tokens(
        result.first, result.second, position, other_position, pieces_of(result)
    )
    comparison.figure(
        token_figures.next_tokens_of_both(
            after.pieces,
            after.before,
            after.after,
            most_before=after.most_before,
            most_after=after.most_after,
            runs=result.names,
            after_token=comparison.first.pieces[position],
        ),
        "next_tokens",
        words=(f"pair{pair}",),
        stretch=True,
        table=lambda: csv_text.table_csv(
            {
                "token id": after.ids,
                "piece": after.pieces,
                f"probability, {result.names[0]}": after.before,
                f"probability, {result.names[1]}": after.after,
            }
        ),
    )


def pieces_of(result: Result) -> list[dict[int, str]]:
    """Texts of the candidates' ids, where the traces hold them."""
    return [
        dict(
            zip(
                trace.candidates.ravel().tolist(),
                (str(piece) for piece in trace.candidate_pieces.ravel()),
                strict=True,
            )
        )
        for trace in (result.first, result.second)
        if trace.candidate_pieces is not None
    ]
