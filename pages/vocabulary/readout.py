"""The tokens that push each expert most and least, and the experts that a token pushes.

Texts of tokens are shown in charts, tables and plain text only: a piece may hold
anything, and would be taken for markup elsewhere.
"""

from __future__ import annotations

import numpy as np
import streamlit as st

from grok.errors import GrokError
from grok.units import duration
from lens.errors import LensError
from lens.escaping import as_markdown
from lens.figures.routers import vocabulary as vocabulary_figures
from lens.figures.token_grid import visible
from lens.routers.router_set import RouterSet
from lens.tables import vocabulary as vocabulary_tables
from lens.vocabulary.readout import TESTS, Readout, ReadoutSettings
from lens.vocabulary.readout_null import band
from lens.words import fixed, p_value_text, percent
from pages.access.messages import told
from pages.guide import tables
from pages.shell import layout, links
from pages.shell.picks import Mark, pick_expert
from pages.shell.session_keys import selected_rows
from pages.vocabulary import one_token
from pages.vocabulary import source as vocabulary_source
from pages.vocabulary.source import Source

HOW_TO_READ = """
**The direct path.** A token's embedding `e`, times the model's multiplier `m`, goes through the
layer's own RMSNorm and router as if nothing else were in the residual stream:
`push = w̃ · x̂`, `x̂ = m·e / √(mean((m·e)²) + 1e-5)`, `w̃` the expert's canonical column, which holds
the norm's scale. Exact for what the embedding contributes. **Later layers see more than the
embedding**: attention before the first router, the output of every layer before the later ones.

- **Push**: in logits, less the mean of the layer's experts, which softmax cannot see.
- **Margin**: the expert's logit less the top-K-th largest of the other experts'. Above 0 it would
  be selected, and the value says how much it could lose; below 0, how much it lacks.
- **Share**: part of the vocabulary that would select the expert, every token counted once, however
  often it occurs in texts. Even: K / E.
- **Mixed experts**: random mixtures of the layer's own experts, as long as the expert's column,
  through the same tokens. Routers and embeddings have large directions in common, so that
  mixtures have favourite tokens too: a telling list of tokens alone proves nothing. What beats
  them is known to single experts, not to the layer as a whole. Bands hold 95 % of the mixtures.
- **Unrelated directions**: the absolute zero, random directions of the same length. Any layer that
  reads the large directions of the embedding beats them.
- **Spread**: standard deviation of the push over the vocabulary, in lengths of the column: how much
  the expert tells tokens apart.
- **q**: p-values of all experts at both ends and of their spreads, after Benjamini and Hochberg, up
  to 0.05 is called beyond. p is counted from the mixtures or, where few reach a value, read off an
  exponential tail; rare pushes have a limit in closed form.
- One **token** has a closed form against mixtures (Craig's integral) and against unrelated
  directions (cos² is Beta(1/2, (d − 1)/2)).

Unchanged by a vector that all columns of a layer share; a layer's scale scales its pushes and
margins alone. Experts' numbers carry no meaning across layers.
"""
COUNTS = (10, 20, 50)
MEASURES = {
    "spread": "Spread",
    "top": "Largest push",
    "bottom": "Smallest push",
    "share": "Share",
}


def show(routers: RouterSet, layer: int, expert: int, view: str) -> None:
    """The tab of one expert: its tokens, all experts at a glance, and the search by token."""
    source = vocabulary_source.find(routers)
    if isinstance(source, str):
        st.info(as_markdown(source), icon=":material/dictionary:")
        return
    settings = ReadoutSettings(view=view)
    try:
        readout = vocabulary_source.known(routers, source, settings)
        if readout is None:
            readout = offer(routers, source, settings)
        if readout is not None:
            expert_section(routers, readout, source, layer, expert)
            everywhere(routers, readout, source, layer, expert)
        one_token.show(routers, readout, source, layer, expert, view)
    except (LensError, GrokError) as error:
        why = told(error)
        st.error(why, icon=":material/error:", title="The embedding could not be read")


def offer(routers: RouterSet, source: Source, settings: ReadoutSettings) -> Readout | None:
    """Asks before an embedding of gigabytes is read; shows how far it is."""
    slot = st.empty()
    embedding = source.embedding
    seconds = vocabulary_source.expected_seconds(routers, source, settings)
    with slot.container(border=True):
        st.markdown(
            f"The token embedding has {embedding.n_tokens:,} rows, "
            f"{fixed(embedding.n_bytes / 1e6, 0)} MB. It is read once, in blocks, and never held "
            f"whole; that takes about {duration(seconds)} here. The result is kept on disk."
        )
        problem = vocabulary_source.can_keep()
        if problem:
            st.caption(problem)
        wanted = st.button(
            "Read the vocabulary", key="vocabulary_read", icon=":material/play_arrow:"
        )
    if not wanted:
        return None
    with slot.container(border=True):
        bar = st.progress(0.0, "Reading the vocabulary …")
        st.button("Cancel", key="vocabulary_cancel")  # any click ends this run, and the reading

        def progress(share: float, spent: float) -> None:
            left = seconds - spent if share == 0 else spent * (1 - share) / share
            rest = f", about {duration(left)} left" if left > 0 else ""
            bar.progress(share, f"Reading the vocabulary: {percent(share)}{rest}")

        readout = vocabulary_source.computed(routers, source, settings, progress)
    slot.empty()
    return readout


# --- one expert --------------------------------------------------------------


def finding(routers: RouterSet, readout: Readout, layer: int, expert: int) -> str:
    """The read-out of one expert in words, beside chance."""
    label = routers.label(layer, expert)
    low, high = readout.mixed_band(layer, expert)
    zero = readout.chance_band(layer, expert)
    q, unrelated = (
        dict(zip(TESTS, values[:, layer, expert], strict=True))
        for values in (readout.q, readout.unrelated_q)
    )
    spread = readout.sd[layer, expert] / readout.norm[layer, expert]
    usual, apart = band(readout.mixed_sd[layer]), band(readout.chance_sd)
    share, even = readout.share[layer, expert], readout.top_k / routers.n_experts
    inside = readout.share_low[layer, expert] <= share <= readout.share_high[layer, expert]

    def beats(test: str) -> str:
        if q[test] <= 0.05:
            return "more than mixed experts of its layer"
        if unrelated[test] <= 0.05:
            return "more than unrelated directions, but no more than mixed experts of its layer"
        return "not distinguishable from chance"

    return (
        f"**{label}.** Its strongest token pushes it by "
        f"{fixed(readout.top_push[layer, expert, 0], 2)} logits: {beats('top')} "
        f"({fixed(low[0], 2)} to {fixed(high[0], 2)}; unrelated directions {fixed(zero[0][0], 2)} "
        "to "
        f"{fixed(zero[1][0], 2)}; q {p_value_text(q['top'])} over all experts). How much it tells "
        "tokens "
        f"apart: {beats('spread')} (spread {fixed(spread, 3)}; mixed {fixed(usual[0], 3)} to "
        f"{fixed(usual[1], 3)}; "
        f"unrelated {fixed(apart[0], 3)} to {fixed(apart[1], 3)}; q {p_value_text(q['spread'])}). "
        f"The embedding alone would select it for {percent(share)} of the vocabulary: "
        f"{'not distinguishable from' if inside else 'unlike'} mixed experts that are as long "
        f"({percent(readout.share_low[layer, expert])} to "
        f"{percent(readout.share_high[layer, expert])}; even {percent(even)})."
    )


def expert_section(
    routers: RouterSet, readout: Readout, source: Source, layer: int, expert: int
) -> None:
    """The tokens of one expert, at both ends."""
    st.markdown(finding(routers, readout, layer, expert))
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"
    ):
        count = links.segments(
            "tokens",
            "Tokens",
            [n for n in COUNTS if n <= readout.top.shape[2]] or [readout.top.shape[2]],
            min(COUNTS[0], readout.top.shape[2]),
        )
        with st.popover("How to read this tab", icon=":material/menu_book:"):
            st.markdown(HOW_TO_READ)
    st.caption(caption(readout, source))
    for end, column in zip(("top", "bottom"), st.columns(2, gap="medium"), strict=True):
        with column:
            end_of(routers, readout, source, (layer, expert), end, count)


def caption(readout: Readout, source: Source) -> str:
    """The tokens and draws that the numbers were computed from, in words."""
    settings = readout.settings
    text = (
        f"{readout.n_tokens:,} tokens, the embedding alone (direct path); "
        f"{readout.mixtures:,} mixed experts of each layer, {readout.draws:,} unrelated "
        f"directions, seed {settings.seed}"
    )
    if settings.view == "raw":
        text += (
            ". Raw view: columns as stored, without the norm's scale and with what all experts "
            "share: pushes and selections are not the model's"
        )
    if readout.silent:
        text += f". {readout.silent:,} tokens have no embedding (all zero)"
    if source.problem:
        text += f". Tokens are shown by their ids: {told(source.problem)}"
    elif source.tokenizer is None:
        text += ". Tokens are shown by their ids: this checkpoint has no tokenizer"
    return text


def extremes(readout: Readout, end: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, pushes and margins of one end ("top" or "bottom") [layer, expert, rank]."""
    if end == "top":
        return readout.top, readout.top_push, readout.top_margin
    return readout.bottom, readout.bottom_push, readout.bottom_margin


def end_of(
    routers: RouterSet,
    readout: Readout,
    source: Source,
    picked: tuple[int, int],
    end: str,
    count: int,
) -> None:
    """Chart and table of one end; a click on either shows that token below."""
    label = routers.label(*picked)
    tokens, push, margin = (values[picked][:count] for values in extremes(readout, end))
    low, high = (side[:count] for side in readout.mixed_band(*picked, end))
    texts = [source.piece(int(token)) for token in tokens]
    labels = layout.layer_labels(routers)
    layout.figure(
        vocabulary_figures.token_pushes(
            texts,
            tokens,
            push,
            margin,
            vocabulary_figures.PushBand(low, high, readout.mixtures),
            label=label,
            end=end,
        ),
        f"tokens_{end}",
        routers,
        words=(label, readout.settings.view),
        table=lambda: vocabulary_tables.tokens_csv(
            readout, labels, source.piece, kept=count, only=picked, ends=(end,)
        ),
        on_pick=pick_token,
        stretch=True,
    )

    def picked_row() -> None:
        rows = selected_rows(f"tokens_{end}_table")
        if rows:
            links.choose(vocab=int(tokens[rows[0]]))

    tables.show(
        {
            "token": [visible(text) for text in texts],
            "id": tokens,
            "push": push,
            "margin": margin,
            "mixed up to" if end == "top" else "mixed down to": high if end == "top" else low,
        },
        height=min(count, 10) * 35 + 38,
        key=f"tokens_{end}_table",
        on_select=picked_row,
        selection_mode="single-row",
        column_config={
            name: st.column_config.NumberColumn(format="%.3f")
            for name in ("push", "margin", "mixed up to", "mixed down to")
        }
        | {"id": st.column_config.NumberColumn(format="%d")},
    )


def pick_token(mark: Mark) -> None:
    """A clicked bar becomes the token shown."""
    links.choose(vocab=int(mark["token"]))


# --- all experts -------------------------------------------------------------


def everywhere(
    routers: RouterSet, readout: Readout, source: Source, layer: int, expert: int
) -> None:
    """All experts at a glance: spread, pushes or share, and their first tokens."""
    st.divider()
    st.markdown("#### All experts")
    counts = [int(np.count_nonzero(readout.beyond_mixed(test))) for test in TESTS]
    apart = [int(np.count_nonzero(q <= 0.05)) for q in readout.unrelated_q]
    n_experts = readout.share.size
    st.markdown(
        f"Of {n_experts} experts, {counts[2]} tell tokens apart more than mixed experts of their "
        f"layer, {counts[0]} have a strongest token and {counts[1]} a weakest one beyond theirs "
        f"(q ≤ 0.05 over all {3 * n_experts} questions: on average at most 5\u00a0% of them "
        f"wrongly). Beyond unrelated directions: {apart[2]}, {apart[0]} and {apart[1]}."
    )
    measure = links.segments(
        "listening",
        "Map",
        list(MEASURES),
        "spread",
        shown=MEASURES.__getitem__,
    )
    labels = layout.layer_labels(routers)
    layout.figure(
        vocabulary_figures.vocabulary_map(readout, labels, measure, picked=(layer, expert)),
        "vocabulary_map",
        routers,
        stretch=True,
        words=(measure, readout.settings.view),
        table=lambda: vocabulary_tables.listening_csv(readout, labels),
        on_pick=pick_expert,
    )
    if routers.n_experts <= vocabulary_figures.WRITTEN_EXPERTS:
        with st.expander("First tokens of every expert", icon=":material/table:"):
            needed = np.unique(readout.top[..., :3])
            words = {int(token): source.piece(int(token)) for token in needed}
            layout.figure(
                vocabulary_figures.written_tokens(readout, labels, words),
                "vocabulary_written",
                routers,
                words=(readout.settings.view,),
                table=lambda: vocabulary_tables.tokens_csv(readout, labels, source.piece),
                on_pick=pick_expert,
            )
