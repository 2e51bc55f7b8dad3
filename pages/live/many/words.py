"""The words of each expert in a run: taken more often than chance, and with the highest gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import streamlit as st

from lens.errors import LensError
from lens.escaping import as_html
from lens.figures.token_grid import bare
from lens.figures.traces import expert_words
from lens.many_prompts.run_record import Run
from lens.many_prompts.run_words import (
    LEAST_OCCURRENCES,
    LEVEL,
    Occurrence,
    Within,
    Words,
    is_word,
    prompts_of_words,
    strongest,
    word_lift,
)
from lens.storage import csv_text
from lens.words import fixed, percent
from pages.access.messages import told
from pages.expert_views.contexts import running
from pages.guide import tables
from pages.live.many.traces import Many
from pages.shell import layout, links
from pages.shell.picks import pick_expert

SHOWN = 15
SCOPES: Mapping[Within, str] = {
    "run": "All prompts",
    "label": "The prompts of a label",
    "prompt": "A stretch of a prompt",
}
_computed = st.cache_data(max_entries=24, show_spinner="Counting words …", scope="session")


@_computed
def _words(run_id: str, changed: float, skip: int, scope: Within, _run: Run) -> Words:
    return word_lift(_run, skip=skip, within=scope)


@_computed
def _strongest(
    run_id: str, changed: float, skip: int, layer: int, expert: int, _run: Run
) -> tuple[list[Occurrence], dict[int, int]]:
    return (
        strongest(_run, layer, expert, skip=skip),
        prompts_of_words(_run, layer, expert, skip=skip),
    )


def counted(run: Run, skip: int, scope: Within) -> Words:
    """The words of all experts of a run.

    Raises:
        LensError: no word occurs often enough, or the files cannot be read.
    """
    return _words(run.id, run.changed, skip, scope, run)


def contexts_of(run: Run, skip: int, layer: int, expert: int) -> list[Occurrence]:
    """The tokens that an expert took with the highest gates, where they stood."""
    return _strongest(run.id, run.changed, skip, layer, expert, run)[0]


def show(run: Run, many: Many, skip: int, picked: tuple[int, int] | None) -> None:
    """The map of all experts, and one of them closely.

    Args:
        run: the run.
        many: its routing.
        skip: first tokens of each prompt that are left out.
        picked: layer and expert, where they are chosen elsewhere on the page.
    """
    folder = many.folder
    words: Words | None = None
    layer, expert, scope = _choices(many, picked)
    try:
        words = counted(run, skip, scope)
        inside = counted(run, skip, "prompt")
    except LensError as error:
        st.info(told(error))
    if words is not None:
        _map(many, words, int(inside.found.sum()), layer, expert)
    found, prompts = _strongest(run.id, run.changed, skip, layer, expert, run)
    name = f"{many.labels[layer]}·E{expert}"
    if not found:
        st.info(f"No token of this run chose {name}.")
        return
    left, right = st.columns([5, 7], gap="medium")
    if words is not None:
        with left:
            _bars(many, words, prompts, layer, expert, name)
    with right if words is not None else st.container():
        st.markdown(f"**Highest gates of {name}**, each with what stands around it")
        st.html(concordance(found, many_labels=len(folder.labels) > 1))
        st.caption("At most three of one token id. Gate: the expert's weight, as it is applied.")


def _choices(many: Many, picked: tuple[int, int] | None) -> tuple[int, int, Within]:
    with st.container(horizontal=True):
        if picked is None:
            layer = layout.layer_choice(many.labels, width=160)
            expert = layout.expert_choice(many.folder.n_experts, width=160)
        else:
            layer, expert = picked
        scope: Within = links.choice(
            "within",
            "Chance: words shuffled over",
            list(SCOPES),
            "run",
            shown=SCOPES.__getitem__,
            width=230,
            help="Within stretches of about 16 tokens of a prompt, only what a word does beyond "
            "the place where it stands counts.",
        )
    return layer, expert, scope


def best_words(words: Words) -> list[list[str]]:
    """The surest word of each expert: of those beyond chance, what reads as a word comes first.

    Of these the one of the smallest q, the more lifted where some are equal.
    """
    q = np.nan_to_num(words.q, nan=1)
    signs = np.array([not is_word(piece) for piece in words.pieces], bool)
    order = np.lexsort((-np.nan_to_num(words.lift), q, (q > LEVEL) * 2 + signs))[..., 0]
    return [
        [
            bare(words.pieces[order[layer, expert]]) if words.found[layer, expert] else ""
            for expert in range(order.shape[1])
        ]
        for layer in range(order.shape[0])
    ]


def _map(many: Many, words: Words, inside: int, layer: int, expert: int) -> None:
    st.markdown(
        f"{int(words.found.sum()):,} of {words.q.size:,} pairs of expert and word are beyond "
        f"chance at q ≤ 0.05 (of these at most about {percent(0.05)} are expected to be chance)"
        + (
            f"; {inside:,} where words are shuffled within stretches of a prompt, so that kind of "
            "text and topic do not count."
            if words.within != "prompt"
            else "."
        )
        + f" {len(words.tokens):,} token ids that occur {LEAST_OCCURRENCES} times or more were "
        "tested."
    )
    many.figure(
        expert_words.word_map(
            words.found,
            best_words(words),
            many.labels,
            n_words=len(words.tokens),
            chance=f"words shuffled over {SCOPES[words.within].lower()}",
            picked=(layer, expert),
        ),
        "word_map",
        on_pick=pick_expert,
        table=lambda: words_csv(words, many.labels),
    )


def words_csv(words: Words, labels: Sequence[str], unit: tuple[int, int] | None = None) -> str:
    """One row for each pair of expert and word at q ≤ 0.05, or for all words of one expert.

    Where nothing was found, all pairs are there.
    """
    keep = words.q <= 0.05 if words.found.any() else np.isfinite(words.q)
    if unit is not None:
        keep = np.zeros(words.q.shape, bool)
        keep[unit] = words.count[unit] > 0
    layer, expert, word = np.nonzero(keep)
    at = (layer, expert, word)
    return csv_text.table_csv(
        {
            "layer": np.asarray(list(labels))[layer],
            "expert (index in its layer)": expert,
            "token (id)": words.tokens[word],
            "word": [repr(words.pieces[i]) for i in word],
            "occurrences": words.occurrences[word],
            "occurrences that chose the expert": words.count[at],
            "tokens that chose the expert": words.size[layer, expert],
            f"tokens in all (without the first {words.skip} of each prompt)": np.full(
                len(word), words.n_tokens
            ),
            f"expected (words shuffled over {SCOPES[words.within].lower()})": words.expected[at],
            "lift (chance 1)": words.lift[at],
            "p (hypergeometric)": words.p[at],
            "q (Benjamini–Hochberg over all experts and words)": words.q[at],
        }
    )


def _bars(
    many: Many, words: Words, prompts: dict[int, int], layer: int, expert: int, name: str
) -> None:
    own = np.flatnonzero(words.count[layer, expert] > 0)
    signs = [not is_word(words.pieces[i]) for i in own]
    q = words.q[layer, expert, own]
    order = np.lexsort((-words.lift[layer, expert, own], q, (q > LEVEL) * 2 + np.array(signs)))
    best = own[order[:SHOWN]]
    if not best.size:
        st.info(f"None of the words that were tested chose {name}.")
        return
    many.figure(
        expert_words.word_bars(
            [bare(words.pieces[i]) for i in best],
            words.count[layer, expert, best] / words.occurrences[best],
            words.expected[layer, expert, best] / words.occurrences[best],
            words.occurrences[best],
            words.q[layer, expert, best],
            label=name,
        ),
        "word_bars",
        words=(name,),
        table=lambda: words_csv(words, many.labels, (layer, expert)),
    )
    with st.expander("As a table"):
        tables.show(
            [
                {
                    "word": bare(words.pieces[i]),
                    "lift": round(float(words.lift[layer, expert, i]), 2),
                    "chose it": int(words.count[layer, expert, i]),
                    "of": int(words.occurrences[i]),
                    "prompts": prompts.get(int(words.tokens[i]), 0),
                    "q": float(words.q[layer, expert, i]),
                }
                for i in best
            ],
        )


def concordance(found: Sequence[Occurrence], *, many_labels: bool) -> str:
    """Tokens in their contexts as an HTML table, each token under the last; all text is escaped."""
    rows = []
    for one in found:
        before = as_html(running(one.before))
        token = as_html(bare(one.piece))
        after = as_html(running(one.after))
        label = f"<td>{as_html(one.label)}</td>" if many_labels else ""
        rows.append(
            f"<tr><td>{fixed(one.gate, 3)}</td>{label}"
            f"<td>{one.prompt}</td>"
            f"<td>{before}</td><td><mark>{token}</mark></td><td>{after}</td></tr>"
        )
    names = ["gate", *(["label"] if many_labels else []), "prompt", "before", "token", "after"]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    return (
        "<style>.concordance{overflow-x:auto;font-size:.86rem}"
        ".concordance td,.concordance th{padding:.1rem .4rem;white-space:nowrap;font-weight:400}"
        ".concordance th{opacity:.65;text-align:left}"
        ".concordance :is(td,th):nth-last-child(3){text-align:right}"
        ".concordance mark{background:#E69F00;color:#000;border-radius:3px;padding:0 .2rem}"
        '</style><div class="concordance" tabindex="0" role="region" '
        'aria-label="Tokens with the highest gates, in context"><table>'
        f"<tr>{head}</tr>{''.join(rows)}</table></div>"
    )
