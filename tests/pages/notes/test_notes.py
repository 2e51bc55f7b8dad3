"""Pins, names and notes on the page Experts and beside all pages."""

from __future__ import annotations

import pyarrow as pa

from lens.storage.expert_notes import ExpertNote, NoteBook
from pages.hosting import owner

HOSTILE = "<b>**x** [y](#z) $a$ :red[no]"


def button(app, key):
    return next(one for one in app.button if one.key == key)


def boxes(app):
    return next(one for one in app.text_input if one.label.startswith("Name of")), next(
        one for one in app.text_area if one.label == "Note"
    )


def links_beside(app):
    return [one.proto.label for one in app.sidebar.get("page_link")]


def notes_on(app):
    return [one.proto.body for one in app.get("html") if "pre-wrap" in one.proto.body]


def write(app, name, note):
    title, text = boxes(app)
    title.set_value(name)
    text.set_value(note)
    next(one for one in app.button if one.label == "Save").click()
    return app.run()


def test_a_pin_is_listed_beside_every_page_and_taken_off_again(open_page):
    app = open_page("experts", layer="2", expert="3")
    assert links_beside(app) == []
    button(app, "pin_expert").click().run()
    assert links_beside(app) == ["L2·E3"]
    app.switch_page("pages/layers.py").run()
    assert links_beside(app) == ["L2·E3"]
    app.switch_page("pages/experts.py").run()
    button(app, "pin_expert").click().run()
    assert links_beside(app) == []
    assert not app.exception


def test_a_name_stands_in_the_list_of_experts_and_a_note_on_the_card(open_page):
    app = write(open_page("experts", layer="2", expert="3"), "  German   endings ", "as in “-en”")
    assert "E3 · German endings" in app.selectbox(key="expert").options
    assert any("as in “-en”" in one for one in notes_on(app))
    assert any(one.label == "Your notes (1)" for one in app.expander)
    button(app, "expert_note_delete").click().run()
    assert not any(one.label.startswith("Your notes") for one in app.expander)
    assert app.selectbox(key="expert").options[3] == "E3"


def test_a_name_stands_in_the_tooltip_of_the_map(open_page, monkeypatch):
    monkeypatch.setattr(owner, "current", lambda: "f" * 64)
    NoteBook().keep("f" * 64, ExpertNote("0" * 64, 2, 3, "L2·E3", "of another model"))
    app = write(open_page("experts", layer="2", expert="3"), "German endings", "")
    shown = next(one for one in app.get("vega_lite_chart") if "expert_map" in one.proto.id)
    tables = [pa.ipc.open_stream(one.data.data).read_pandas() for one in shown.proto.datasets]
    names = {name for table in tables if "name" in table for name in table["name"]}
    assert {"L2·E3, German endings", "L2·E4"} <= names


def test_what_people_write_is_text(open_page):
    app = write(open_page("experts", layer="2", expert="3"), HOSTILE, HOSTILE)
    button(app, "pin_expert").click().run()
    shown = [one.proto.body for one in [*app.markdown, *app.caption]] + links_beside(app)
    told = [text for text in shown if "no" in text and "$" in text]
    assert len(told) == 2
    assert any("&lt;b&gt;**x** [y](#z) $a$ :red[no]" in one for one in notes_on(app))
    for text in told:
        assert r"\<b>" in text and r"\[y\]" in text and r"\$a\$" in text and r"\*\*x" in text


def test_another_person_sees_nothing_of_it(open_page, monkeypatch):
    write(open_page("experts", layer="2", expert="3"), "mine", "zebra")
    monkeypatch.setattr(owner, "current", lambda: "f" * 64)
    other = open_page("experts", layer="2", expert="3")
    assert not any("zebra" in one for one in notes_on(other))
    assert other.selectbox(key="expert").options[3] == "E3"


def test_all_notes_are_deleted_by_one_click_also_those_of_other_models(open_page, monkeypatch):
    monkeypatch.setattr(owner, "current", lambda: "f" * 64)
    NoteBook().keep("f" * 64, ExpertNote("0" * 64, 40, 7, "L40·E7", "elsewhere"))
    app = open_page("experts")
    assert any(one.label == "Your notes (1)" for one in app.expander)
    button(app, "notes_delete_all").click().run()
    assert NoteBook().of("f" * 64) == []


def test_a_damaged_file_is_said_once_and_does_not_stop_a_page(open_page):
    book = NoteBook()
    book.folder.mkdir(parents=True)
    book.file.write_bytes(b"not a database at all" * 50)
    app = open_page("layers")
    assert not app.exception
    assert any("set aside as" in one.value for one in app.warning)
    app.run()
    assert not app.warning


def test_a_name_stands_beside_the_expert_of_a_token(open_page, monkeypatch):
    monkeypatch.setattr(owner, "current", lambda: "f" * 64)
    app = open_page("live_routing", token="16", layer="6")
    goes = next(one.value for one in app.markdown if "goes to" in one.value)
    expert = int(goes.split("·E")[1][0])
    write(open_page("experts", layer="6", expert=str(expert)), "endings", "")
    again = open_page("live_routing", token="16", layer="6")
    assert any(f"**L6·E{expert}** (“endings”)" in one.value for one in again.markdown)
