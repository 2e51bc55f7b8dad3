"""Why this expert: a choice as the sum of features, and the smallest change that undoes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import streamlit as st
from streamlit.elements.lib.mutable_expander_container import ExpanderContainer

from grok.errors import GrokError
from lens import figures
from lens.errors import LensError
from lens.escaping import as_markdown
from lens.features.accounts import Term, in_order, largest_terms
from lens.features.card import feature_name
from lens.glossary import marked
from lens.storage import csv_text
from lens.traces import layer_numbers
from lens.words import counted, fixed, percent
from pages.access.messages import told
from pages.guide import tables
from pages.live.one_trace import why_run
from pages.live.one_trace.routing_views import View
from pages.live.session import dictionaries
from pages.live.session.shared_models import ModelChoice
from pages.notes import kept_features
from pages.shell import parts
from pages.shell.link_names import page_file

if TYPE_CHECKING:
    from grok.dictionaries.attribution import (
        FlipCheck,
        FlipTable,
        PromptFeatures,
        RouteAccount,
    )

FOLD = "why_expert"
SHOWN = 8  # features that have a bar of their own
NAMED = 3  # in the sentence
MOSTLY = 0.8  # of the whole; no further feature is named once this is reached
NEAR = 0.03  # relative; bfloat16 moves doses by about a percent
WORDS = 2  # tokens that stand for a feature
OTHER_KINDS = {
    "bias": "the dictionary's bias",
    "skip": "the dictionary's skip",
    "embedding": "the token itself",
    "attention": "attention",
    "experts": "experts of layers before",
    "router bias": "the router's bias",
    "error": "missed by the dictionary",
    "rounding": "rounding",
}


def place() -> ExpanderContainer:
    """The fold under the cell's card."""
    return parts.fold("Why this expert?", FOLD, icon=":material/account_tree:")


def fill(
    fold: ExpanderContainer, view: View, token: int, layer: int, choice: ModelChoice | None
) -> None:
    """The account of the cell, where the fold is open; nothing is read or run before."""
    if not fold.open:
        return
    with fold:
        try:
            why = why_run.why_not(view.trace, choice)
            if choice is None or why:
                st.caption(why)
                return
            found = why_run.read(view.trace, choice)
            if found is not None:
                Cell(view, found, token, layer).show(choice)
        except GrokError as error:
            st.caption(told(error))


class Cell:
    """One token in one layer, with what a dictionary reads there."""

    def __init__(self, view: View, found: PromptFeatures, token: int, layer: int) -> None:
        from grok.dictionaries.attribution import route_account

        self.view, self.found, self.token, self.layer = view, found, token, layer
        self.number = int(layer_numbers(view.trace)[layer])
        self.label = view.labels[layer]
        self.account: RouteAccount = route_account(found, self.number, token)
        self.chosen = [int(e) for e in view.trace.experts[layer, token] if e >= 0]
        others = np.setdiff1d(np.arange(view.n_experts), self.chosen)
        logits = self.account.logits
        self.database = dictionaries.database(dictionaries.folder())
        self.given: dict[tuple[int, int], str] = {}
        if self.database is not None:
            sha256 = self.database[1].summary().dictionary_sha256
            self.given = kept_features.names(kept_features.own(sha256))
        self.nearest = int(others[np.argmax(logits[others])]) if len(others) else None

    def show(self, choice: ModelChoice) -> None:
        """Sentence, waterfall, table, and the smallest flip."""
        if set(self.account.experts.tolist()) != set(self.chosen):
            st.caption(
                "When the text was run again, rounding gave this token other experts, so there is "
                "no account of this choice."
            )
            return
        expert, other = self.compared()
        every = in_order(largest_terms(self.account, expert, other, n=len(self.account.kinds)))
        shown = in_order(largest_terms(self.account, expert, other, n=SHOWN))
        st.markdown(marked(self.sentence(expert, other, every)))
        self.links([(one.group, one.feature) for one in self.largest(every)])
        untrained = (
            " The dictionary was not trained on tokens that stand so early in a text."
            if self.account.untrained
            else ""
        )
        st.caption(
            f"Of all that this router sees of the token, the dictionary misses "
            f"{percent(self.account.error_share)}.{untrained}"
        )
        self.waterfall(expert, other, shown, every)
        self.flip(choice)

    def compared(self) -> tuple[int, int | None]:
        """The chosen expert that is looked at, and the one it is held against, if any."""
        options: dict[str, tuple[int, int | None]] = {}
        for i, expert in enumerate(self.chosen):
            if self.nearest is not None:
                options[f"over_{i}"] = (expert, self.nearest)
        for i, expert in enumerate(self.chosen):
            options[f"alone_{i}"] = (expert, None)

        def named(option: str) -> str:
            expert, other = options[option]
            return f"E{expert} alone" if other is None else f"E{expert} rather than E{other}"

        first = next(iter(options))
        picked = st.segmented_control(
            "Which choice",
            list(options),
            format_func=named,
            default=first,
            required=True,
            key="why_compared",
            label_visibility="collapsed",
        )
        return options.get(str(picked), options[first])

    def name(self, group: int, feature: int) -> str:
        """A feature as pages write it: "L5·F120"."""
        design = self.found.dictionary.design
        layer = design.sources[design.groups[group].reads[0]].layer
        return feature_name(layer if len(design.groups) > 1 else -1, feature)

    def links(self, features: list[tuple[int, int]]) -> None:
        """Links to features' own cards, where there is a database of them."""
        if self.database is None or not features:
            return
        with st.container(horizontal=True, gap="small"):
            for group, feature in features:
                st.page_link(
                    page_file("features"),
                    label=self.name(group, feature),
                    icon=":material/scatter_plot:",
                    query_params={
                        "feature": f"{group}-{feature}",
                        "dictionary": self.database[0],
                    },
                    width="content",
                )

    def usually(self, group: int, feature: int) -> str:
        """A feature's name by the person and when it is active in other text, as Markdown."""
        if self.database is None:
            return ""
        store = self.database[1]
        given = self.given.get((group, feature), "")
        named = f"your “{as_markdown(given)}”; " if given else ""
        try:
            said = dictionaries.usually_on(
                store.summary().dictionary_sha256, group, feature, _store=store
            )
        except LensError:
            return named
        return named + (f"{as_markdown(said)}; " if said else "")

    def words(self, group: int, feature: int) -> list[str]:
        """The tokens of this text at which a feature is strongest, as plain text."""
        strengths = self.found.features[group][:, feature]
        order = np.argsort(-strengths, kind="stable")
        pieces = [figures.visible(self.view.pieces[t]) for t in order if strengths[t] > 0]
        return list(dict.fromkeys(pieces))[:WORDS]

    def quoted(self, group: int, feature: int) -> str:
        return ", ".join(f"“{as_markdown(word)}”" for word in self.words(group, feature))

    def largest(self, terms: list[Term]) -> list[Term]:
        """The few features that make up most of a total, in its direction."""
        total = sum(term.contribution for term in terms)
        sign = 1.0 if total >= 0 else -1.0
        features = [term for term in terms if sign * term.contribution > 0 and term.feature >= 0]
        features.sort(key=lambda term: -abs(term.contribution))
        sums = np.cumsum([0.0, *(abs(term.contribution) for term in features)])
        return [
            term
            for term, so_far in zip(features[:NAMED], sums, strict=False)
            if so_far < MOSTLY * abs(total)
        ]

    def sentence(self, expert: int, other: int | None, terms: list[Term]) -> str:
        """The account in words."""
        total, largest = sum(term.contribution for term in terms), self.largest(terms)
        names = "; ".join(
            f"**{self.name(one.group, one.feature)}** ({self.usually(one.group, one.feature)}"
            f"here on {self.quoted(one.group, one.feature)}, "
            f"{fixed(one.contribution, 2, sign=True)})"
            for one in largest
        )
        missed = sum(term.contribution for term in terms if term.kind == "error")
        share = missed / total if total else float("nan")
        piece = as_markdown(figures.visible(self.view.pieces[self.token]))
        place = f"**{self.label}·E{expert}**"
        if other is None:
            above = " above the mean of the experts" if self.account.canonical else ""
            start = f"The logit of {place} at “{piece}” is {fixed(total, 2)}{above},"
        else:
            start = f"“{piece}” goes to {place} rather than E{other}, by {fixed(total, 2)} logits,"
        if not largest:
            body = "without a feature that lifts it."
        elif sum(abs(term.contribution) for term in largest) >= 0.5 * abs(total):
            body = f"mostly because of {names}."
        else:
            body = f"for many small reasons, the largest {names}."
        rest = (
            f"{percent(share)} of it is what the dictionary misses."
            if 0 <= share <= 1
            else f"What the dictionary misses gives {fixed(missed, 2, sign=True)}."
        )
        return f"{start} {body} {rest}"

    def row_name(self, term: Term) -> str:
        """A term as the figure and the table write it."""
        if term.feature >= 0:
            words = ", ".join(self.words(term.group, term.feature))[:24]
            return f"{self.name(term.group, term.feature)} {words}".strip()
        if term.kind == "feature":
            return counted(term.terms, "other feature")
        return OTHER_KINDS.get(term.kind, term.kind)

    def waterfall(
        self, expert: int, other: int | None, shown: list[Term], every: list[Term]
    ) -> None:
        """The terms as steps, and all of them as a table."""
        what = f"E{expert}" if other is None else f"E{expert} − E{other}"
        columns = {
            "term": [self.row_name(term) for term in every],
            "strength": [term.value if term.feature >= 0 else np.nan for term in every],
            "adds (logits)": [term.contribution for term in every],
        }
        self.view.figure(
            figures.account_waterfall(
                [self.row_name(term) for term in shown],
                np.array([term.contribution for term in shown]),
                [
                    term.kind if term.feature >= 0 or term.kind != "feature" else "others"
                    for term in shown
                ],
                title=f"{self.label}: what {what} is the sum of",
                total=f"logit of {what}" if other is None else f"logits {what}",
            ),
            "route_account",
            stretch=True,
            words=(self.label, f"token{self.token}"),
            table=lambda: csv_text.table_csv(columns),
        )
        with st.popover("All terms", icon=":material/table_rows:"):
            number = st.column_config.NumberColumn(format="%.3f")
            tables.show(
                columns,
                column_config={"strength": number, "adds (logits)": number},
                key="account_terms",
            )

    # --- the smallest flip --------------------------------------------------------------

    def flip(self, choice: ModelChoice) -> None:
        """The feature that undoes the choice with the least change, and what the model did."""
        from grok.dictionaries.attribution import smallest_flips

        table: FlipTable = smallest_flips(self.found, self.number, self.token)
        if not len(table.dose) or not np.isfinite(table.dose[0]):
            st.markdown("**Smallest flip.** No change of one active feature sends it elsewhere.")
            return
        leaves, comes = table.pair(0)
        value, dose = float(table.values[0]), float(table.dose[0])
        place = (int(table.groups[0]), int(table.features[0]))
        name = f"**{self.name(*place)}**"
        st.markdown(
            f"**Smallest flip.** {name} {'raised' if dose > 0 else 'lowered'} from "
            f"{fixed(value, 2)} to {fixed(value + dose, 2)} would put {self.label}·E{comes} in the "
            f"place of E{leaves}. Of {len(table.random):,} random directions "
            f"{percent(float(table.below_random()[0]))} need a shorter change."
        )
        known = why_run.known(self.view.trace, table)
        slot = st.empty()
        if known is None and slot.button("Run it", icon=":material/play_arrow:", key="run_flip"):
            slot.empty()
            known = why_run.check(self.view.trace, choice, self.found, table)
        if known is not None:
            st.markdown(self.outcome(table, known))

    def outcome(self, table: FlipTable, check: FlipCheck) -> str:
        """What the model did, beside what was predicted and beside random directions."""
        value = float(table.values[0])
        predicted, measured = float(check.predicted[0]), float(check.measured[0])
        there, same = np.isfinite(measured), (check.found[0] == check.expected[0]).all()
        off = abs(measured / predicted - 1) if there else np.inf
        rounded = self.found.dtype == "bfloat16" and not check.agrees[0] and off < NEAR
        leaves, comes = (int(e) for e in check.expected[0])
        if not there:
            did = "**the model did not change its choice** up to twice that change"
        elif not same:
            did = "**the model did otherwise**: other experts changed than predicted"
        elif check.agrees[0] or rounded:
            did = f"**the model agreed**: E{comes} came in the place of E{leaves}"
        else:
            did = f"**the model agreed on the experts alone**: E{comes} came for E{leaves}"
        at = (
            f" at {fixed(value + measured, 2)}, predicted {fixed(value + predicted, 2)} "
            f"({percent(off, 1)} of the change apart{', as bfloat16 rounds' if rounded else ''})"
            if there
            else ""
        )
        random = check.is_random
        length = abs(predicted) * float(check.lengths[0])
        moved = np.abs(check.measured[random]) * check.lengths[random] <= length
        return (
            f"Run: {did}{at}. Control: of {len(moved)} random directions, each moved by that "
            f"length towards its nearer flip, {int(moved.sum())} changed the experts."
        )
