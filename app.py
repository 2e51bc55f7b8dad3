"""Grok MoE Lens: page config, data source and navigation.

streamlit run app.py [-- --routers FILE] [-- --checkpoint DIR]
"""

from __future__ import annotations

from pathlib import Path

# Altair asks whether pandas is loaded, and fails where another visitor is just loading it.
import pandas  # noqa: F401
import streamlit as st
from streamlit.navigation.page import StreamlitPage
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.starlette import App

from grok.serving.jobs import Jobs
from lens.escaping import as_markdown
from pages.exports import report
from pages.guide import terms, tour
from pages.hosting import gate, load, server, tabs
from pages.hosting.first_answer import NO_PAGE
from pages.live.many import runs
from pages.live.running import preload
from pages.notes import listing
from pages.shell import data_source, links
from pages.shell.link_names import PAGES, page_file

# Pages that show routers in the view that the sidebar offers.
OF_ROUTERS = ("experts", "layers", "clustering")

NAME = "Grok MoE Lens"
LINE = "See where a Mixture-of-Experts model sends each word"
ICON = Path(__file__).resolve().parent / "pages" / "shell" / "icon.svg"
SIDEBAR_WIDTH = 270
STYLE = """<style>
.stMainBlockContainer { padding: 4.2rem 2.5rem 4rem; max-width: 1500px; }
[data-testid="stElementContainer"]:has([data-testid="stVegaLiteChart"]),
[data-testid="stElementContainer"] div:has(> [data-testid="stVegaLiteChart"]),
[data-testid="stFullScreenFrame"]:has([data-testid="stVegaLiteChart"]) {
  max-width: 100%; min-width: 0;
}
[data-testid="stVegaLiteChart"] { overflow-x: auto; overflow-y: hidden; max-width: 100%; }
[class*="st-key-"][class*="_downloads"] { margin-top: -0.9rem; }
[data-testid="stElementToolbarButton"]:has([aria-label^="Show data"]) { display: none; }
.st-key-layer_dendrogram svg { max-width: 100%; height: auto; }
[data-testid="stCaptionContainer"] { color: inherit; opacity: 0.78; }
.st-key-try_own a { background: #1769AA; border-radius: 0.4rem; width: fit-content; }
.st-key-try_own a * { color: #FFFFFF !important; }
[data-testid="stSidebarContent"] { position: relative; }
[data-testid="stSidebarHeader"] { margin-bottom: 3.2rem; }
[data-testid="stSidebarUserContent"] { padding-top: 0.5rem; }
.st-key-brand { position: absolute; top: 0; left: 0; right: 3.4rem; pointer-events: none; }
.st-key-brand b { position: absolute; top: 1.02rem; left: 4rem; font-size: 1.1rem; }
.st-key-brand span { position: absolute; top: 3.6rem; left: 1.5rem; width: 14rem;
  font-size: 0.86rem; line-height: 1.3; opacity: 0.85; }
h1 { padding-top: 0 !important; }
[data-testid="stElementContainer"]:has(.read-aloud) { position: absolute; width: 1px; }
.read-aloud, .in-words, [class*="_downloads"] button strong {
  position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap;
}
[data-testid^="stBaseButton-primary"] { background-color: #1769AA; border-color: #1769AA; }
[data-testid^="stBaseButton-primary"]:hover { background-color: #12578E; }
[data-testid="stMetricValue"] { font-size: 1.6rem; }
@media (max-width: 640px) {
  .stMainBlockContainer { padding: 4.2rem 1rem 3rem; }
  [data-testid="stButtonGroup"] [role="radiogroup"] { flex-wrap: wrap; row-gap: 0.3rem; }
  .st-key-head_buttons { width: 100%; gap: 0.4rem; }
  .st-key-head_buttons [data-testid="stPopoverButton"] { padding: 0.1rem 0.55rem;
    min-height: 2.2rem; white-space: nowrap; }
  .st-key-head_buttons [data-testid="stPopoverButton"] p { font-size: 0.9rem; }
  [data-testid="stExpandSidebarButton"]::after { content: "Pages"; padding-left: 0.3rem; }
}
</style>"""
# What is wider than its place can be scrolled by keyboard too.
SCROLL = """<script>
if (!window.grokLensScroll) {
  const mark = () => document.querySelectorAll("[data-testid=stVegaLiteChart]").forEach(chart => {
    if (chart.scrollWidth > chart.clientWidth) chart.tabIndex = 0;
    else chart.removeAttribute("tabindex");
  });
  let waiting = 0;
  const later = () => { clearTimeout(waiting); waiting = setTimeout(mark, 200); };
  new MutationObserver(later).observe(document.body,
    { childList: true, subtree: true, attributeFilter: ["width"] });
  addEventListener("resize", later);
  window.grokLensScroll = true;
  later();
}
</script>"""


def unknown_page_note(pages: list[StreamlitPage]) -> None:
    """Says that the address named no page, and offers those there are; in the first run."""
    asked = links.asked(NO_PAGE, "page", r".*")
    if not asked:
        return
    with st.container(border=True, key="unknown_page"):
        st.markdown(f"There is no page “{as_markdown(asked[: links.LONGEST])}” here. There are:")
        with st.container(horizontal=True):
            for page in pages:
                st.page_link(page, width="content")


def reports_under_way() -> Jobs:
    """The reports that are being made."""
    return report.reports().jobs


def show() -> None:
    """One draw of the page that the address names."""
    pages = [
        st.Page(
            page_file(name),
            title=title,
            icon=icon,
            default=name == "overview",
            url_path=None if name == "overview" else name,
        )
        for name, (title, icon) in PAGES.items()
    ]
    # Before the navigation: without an icon of its own a page would fetch one from elsewhere.
    st.set_page_config(page_icon=str(ICON), layout="wide", initial_sidebar_state=SIDEBAR_WIDTH)
    standing = gate.standing()
    page = st.navigation(pages, position="sidebar" if standing == "inside" else "hidden")
    st.set_page_config(page_title=NAME if page.title == "Overview" else f"{page.title} · {NAME}")
    st.html(STYLE)
    st.logo(str(ICON), size="large")
    with st.sidebar.container(key="brand"):
        st.html(
            f"<b>{NAME}</b><span>{LINE}</span>{SCROLL}{terms.script()}",
            unsafe_allow_javascript=True,
        )
    if standing != "inside":
        gate.closed(standing)
        return
    links.begin()
    tabs.bring_back()
    data_source.sidebar(with_view=page.url_path in OF_ROUTERS)
    try:
        tabs.gone_note()
        unknown_page_note(pages)
        missing = data_source.missing()
        routers = data_source.current()
        with st.sidebar:
            listing.beside(routers)
            tour.again()
        gate.inside()
        with st.sidebar:
            load.popover({"Run of many prompts": runs.jobs, "Report": reports_under_way})
        tour.bar(page.url_path)
        if missing is None:
            page.run()
            links.unread()
        else:
            st.title(page.title, anchor=False)
            data_source.open_first(missing)
        tabs.remember()
    finally:
        tabs.put_away()
        links.finish()
    preload.begin()


if get_script_run_ctx(suppress_warning=True) is None:
    # Streamlit's command reads this file first to know the server, which then runs it for visitors.
    # It looks for a call of App here.
    app = App(__file__, **server.settings(list(PAGES)))
else:
    show()
