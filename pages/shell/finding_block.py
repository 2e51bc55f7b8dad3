"""What a page has found: a plain sentence, whether it beat chance, and the numbers a click away.

The field's words in them carry the marks of `lens.glossary`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import streamlit as st

from lens.escaping import as_markdown
from lens.finding import Finding, Verdict, strongest
from lens.glossary import marked

Headline = str | Sequence[Finding]
"""A page's first lines: an invitation, or what was found, of which the strongest leads."""

NUMBERS = "Numbers"


def show(headline: Headline) -> None:
    """The first lines of a page, in the container that is open."""
    if headline:  # for those who go from heading to heading: a page's name has one below it
        st.html('<h2 class="read-aloud">What this page says</h2>')
    if isinstance(headline, str):
        st.subheader(marked(headline), anchor=False)
        return
    if not headline:
        return
    first = strongest(list(headline))
    st.subheader(marked(as_markdown(first.sentence)), anchor=False)
    others = [one for one in headline if one is not first]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        chip(first)
        for other in others:
            st.markdown(marked(as_markdown(other.sentence)), width="content")
            chip(other)
        numbers([first, *others])


def line(finding: Finding) -> None:
    """A finding beside the page's first one: sentence, chip and numbers in a row."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(marked(as_markdown(finding.sentence)), width="content")
        chip(finding)
        numbers([finding])


def chip(finding: Finding) -> None:
    """Whether a finding beat chance; nothing where there was nothing to ask."""
    verdict_chip(finding.verdict)


def verdict_chip(verdict: Verdict) -> None:
    """A verdict as a badge; nothing where nothing was asked."""
    if verdict == "found":
        st.badge("beyond chance", icon=":material/check:", color="green")
    elif verdict == "not told from chance":
        st.badge("not beyond chance", color="gray")


def numbers(findings: Sequence[Finding]) -> None:
    """What the sentences rest on, in full, behind a button."""
    told = [one for one in findings if one.detail and one.detail != one.sentence]
    if not told:
        return
    with behind():
        for finding in told:
            if len(told) > 1:
                st.markdown(f"**{as_markdown(finding.sentence)}**")
            st.markdown(marked(as_markdown(finding.detail)))


def behind() -> AbstractContextManager[object]:
    """What opens at a click on "Numbers"."""
    return st.popover(NUMBERS, icon=":material/functions:")
