"""Whatever an address says, the page stands, without a traceback."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from pages.shell.link_names import NAMES, OF_EVERY_LINK
from tests.fuzz.guard import budget, rounds
from tests.fuzz.material import words

PAGES = ("overview", "layers", "experts", "clustering", "features", "live_routing")
# A link may have the model run an example; here only what an address says is looked at.
READ = sorted((set(NAMES) | set(OF_EVERY_LINK)) - {"example"})
SAID = [
    *("compare", "what_if", "generate", "many", "inspect", "upload", "hub", "file", "checkpoint"),
    *("raw", "cka", "umap", "-1", "0", "1", "7", "999999999999", "1e9", "nan", "0.5", "vocabulary"),
    *("A" * 22, "true", "chance", "shared", "all"),
]
some = words.map(lambda text: text.encode("utf-8", "replace").decode())  # as addresses hold it
addresses = st.dictionaries(
    st.sampled_from(READ) | some, st.sampled_from(SAID) | some, min_size=1, max_size=12
)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_stands_whatever_its_address_says(name, open_page, few_drawn_sets):
    long = budget() > 0

    def one(number: int) -> None:
        @settings(
            max_examples=200 if long else 4,
            derandomize=not long,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink] if long else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(addresses)
        def stands(address: dict[str, str]) -> None:
            said = {key: text for key, text in address.items() if key not in ("page", "state")}
            app = open_page(name, **said)
            assert not app.exception, (said, [one.value for one in app.exception])

        (seed(number)(stands) if long else stands)()

    rounds(one)
