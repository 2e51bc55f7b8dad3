"""Grok MoE Lens: page config, data source and navigation.

streamlit run app.py [-- --routers FILE] [-- --checkpoint DIR]
"""

from __future__ import annotations

from pathlib import Path

# Altair asks whether pandas is loaded, and fails where another visitor is just loading it.
import pandas  # noqa: F401
import streamlit as st

from pages.shell import data_source, links

PAGES = [
    st.Page("pages/overview.py", title="Overview", icon=":material/home:", default=True),
    st.Page("pages/layers.py", title="Layers", icon=":material/grid_on:", url_path="layers"),
    st.Page("pages/experts.py", title="Experts", icon=":material/hub:", url_path="experts"),
    st.Page(
        "pages/clustering.py",
        title="Clustering",
        icon=":material/account_tree:",
        url_path="clustering",
    ),
    st.Page(
        "pages/live_routing.py",
        title="Live routing",
        icon=":material/alt_route:",
        url_path="live_routing",
    ),
]

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
[class*="st-key-"][class*="_downloads"] { margin-top: -1.1rem; }
h1 { padding-top: 0 !important; }
[data-testid="stMetricValue"] { font-size: 1.6rem; }
@media (max-width: 640px) { .stMainBlockContainer { padding: 4.2rem 1rem 3rem; } }
</style>"""

st.set_page_config(
    page_title="Grok MoE Lens",
    page_icon=str(ICON),
    layout="wide",
    initial_sidebar_state=SIDEBAR_WIDTH,
)
st.html(STYLE)
page = st.navigation(PAGES)
links.begin()
data_source.sidebar()
try:
    page.run()
finally:
    links.finish()
