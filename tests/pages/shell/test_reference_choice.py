"""What layers are set against: one choice, which says what it keeps and what was taken away."""

from __future__ import annotations

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from lens.routers.router_set import RouterSet


def page(routers, view):
    import streamlit as st

    from pages.shell import links
    from pages.shell.reference_choice import current, reference_choice

    links.begin()
    chosen = reference_choice(routers, view)
    st.session_state["found"] = chosen, current(routers, view)
    links.finish()


def opened(
    n_layers: int = 12, outlier: float = 1.0, view: str = "canonical", **query: str
) -> AppTest:
    weights = np.random.default_rng(5).standard_normal((n_layers, 128, 4))
    weights[:, 7] *= outlier
    routers = RouterSet(weights.astype(np.float32), source="made for a test")
    app = AppTest.from_function(page, args=(routers, view), default_timeout=60)
    for name, text in query.items():
        app.query_params[name] = text
    return app.run()


def test_by_default_layers_are_set_against_what_they_share_by_the_rule():
    app = opened()
    chosen, again = app.session_state["found"]
    assert chosen == again == ("shared", None)
    assert "m = 0 by rule" in app.caption[0].value
    assert not app.query_params


def test_the_caption_says_how_many_directions_went_and_how_much_with_them():
    app = opened(outlier=15)
    assert "the largest shared direction was taken away" in app.caption[0].value
    assert "(m = 1 by rule)" in app.caption[0].value
    share = int(app.caption[0].value.split("\u00a0%")[0].split()[-1])
    assert 50 <= share <= 75  # 225 of the 352 that the outlier and 127 other dimensions have


def test_the_choice_is_in_the_link():
    app = opened(directions="3")
    assert app.session_state["found"][0] == ("shared", 3)
    assert "the 3 largest" in app.caption[0].value
    app = opened(reference="shuffled")
    assert app.session_state["found"][0].reference == "shuffled"
    assert [box.key for box in app.selectbox] == ["reference"]


def test_no_more_directions_are_offered_than_so_many_columns_tell():
    assert opened().selectbox(key="directions").options == [
        "By rule",
        "None",
        "The largest",
        "The largest 3",
    ]
    assert opened(directions="10").session_state["found"][0] == ("shared", None)


@pytest.mark.parametrize(("n_layers", "view"), [(12, "raw"), (2, "canonical")])
def test_unrelated_directions_stand_in_where_none_are_known_to_be_shared(n_layers, view):
    app = opened(n_layers, view=view)
    chosen, again = app.session_state["found"]
    assert chosen == again == ("unrelated", None)
    assert "turned at random" in app.caption[0].value
    assert not app.query_params
