"""The tab of what an expert listens to: at once, on demand, not at hand, and the search."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from grok.checkpoints.grok1 import EMBEDDING, open_checkpoint
from grok.checkpoints.token_embedding import TokenEmbedding, open_embedding
from grok.checkpoints.tokenizer import PieceTokenizer as Tokenizer
from grok.config import BUNDLED_MODEL
from grok.files import CACHE_VARIABLE
from lens.extract.folder import folder_routers
from lens.figures.token_grid import visible
from lens.routers.router_set import RouterSet
from lens.vocabulary.from_checkpoint import checkpoint_readout
from lens.vocabulary.readout import ReadoutSettings, vocabulary_readout
from pages.shell import data_source
from pages.vocabulary import source as vocabulary_source

TINY = Path(__file__).resolve().parents[2] / "data" / "tiny12"
Tab = Callable[..., AppTest]


def tab_alone() -> None:
    """The page around the tab, as the app makes it."""
    from pages.shell import data_source, layout, links
    from pages.vocabulary import readout as vocabulary_view

    links.begin()
    data_source.sidebar()
    routers = data_source.current()
    layer = layout.layer_choice(layout.layer_labels(routers))
    expert = layout.expert_choice(routers.n_experts)
    vocabulary_view.show(routers, layer, expert, data_source.current_view())
    links.finish()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def tab() -> Tab:
    def open_tab(*, state: dict | None = None, **query: str) -> AppTest:
        app = AppTest.from_function(tab_alone, default_timeout=300)
        for name, value in (state or {}).items():
            app.session_state[name] = value
        for name, value in query.items():
            app.query_params[name] = value
        return app.run()

    return open_tab


def text(app: AppTest) -> str:
    return "\n".join(
        element.value for kind in (app.markdown, app.caption, app.text) for element in kind
    )


def fine(app: AppTest) -> bool:
    return not app.exception and not app.error


def frames(app: AppTest) -> list:
    return [element.value for element in app.dataframe]


def test_the_bundled_model_s_tokens_are_shown_at_once(
    tab: Tab, routers: RouterSet, own_cache: Path
) -> None:
    app = tab(layer="7", expert="4")
    assert fine(app)
    checkpoint = open_checkpoint(BUNDLED_MODEL)
    readout = vocabulary_readout(routers, open_embedding(checkpoint))
    assert checkpoint.tokenizer_file is not None
    tokenizer = Tokenizer(checkpoint.tokenizer_file, checkpoint.config.vocab_size)
    top, bottom, selections = frames(app)[:3]
    assert top["id"].tolist() == readout.top[7, 4, :10].tolist()
    np.testing.assert_allclose(top["push"], readout.top_push[7, 4, :10])
    assert [t.replace("·", "▁") for t in top["token"]] == tokenizer.pieces(readout.top[7, 4, :10])
    assert bottom["id"].tolist() == readout.bottom[7, 4, :10].tolist()
    np.testing.assert_allclose(bottom["margin"], readout.bottom_margin[7, 4, :10])
    assert len(selections) == routers.n_layers
    assert f"pushes it by {readout.top_push[7, 4, 0]:.2f} logits" in text(app)
    assert "344 mixed experts of each layer, 400 unrelated directions, seed 0" in text(app)
    assert not own_cache.exists()  # so small that nothing need be kept


def test_the_sentence_on_an_expert_says_what_its_q_says(tab: Tab, routers: RouterSet) -> None:
    readout = vocabulary_readout(routers, open_embedding(open_checkpoint(BUNDLED_MODEL)))
    best = np.unravel_index(np.argmin(readout.q[0]), readout.q[0].shape)
    worst = np.unravel_index(np.argmax(readout.unrelated_q[0]), readout.q[0].shape)
    between = np.argwhere((readout.unrelated_q[0] <= 0.05) & (readout.q[0] > 0.05))[0]
    found = text(tab(layer=str(best[0]), expert=str(best[1])))
    assert "logits: more than mixed experts of its layer" in found
    found = text(tab(layer=str(between[0]), expert=str(between[1])))
    assert "logits: more than unrelated directions, but no more than mixed experts" in found
    found = text(tab(layer=str(worst[0]), expert=str(worst[1])))
    assert "logits: not distinguishable from chance" in found


def test_more_tokens_can_be_shown_and_are_in_the_link(tab: Tab) -> None:
    app = tab(tokens="50")
    assert fine(app) and len(frames(app)[0]) == 50
    assert app.number_input(key="vocab").set_value(9).run().query_params["tokens"] == "50"


def test_the_raw_view_says_that_it_is_not_what_the_model_does(tab: Tab) -> None:
    app = tab(view="raw")
    assert fine(app) and "not the model's" in text(app)
    assert "not the model's" not in text(tab())


def test_a_text_leads_to_its_tokens_and_their_experts(tab: Tab) -> None:
    app = tab()
    app.text_input(key="vocabulary_text").input("und").run()
    assert fine(app)
    offered = app.selectbox(key="vocabulary_match")
    token = app.number_input(key="vocab").value
    assert offered.value == token and len(offered.options) > 2
    assert f"Token {token}: ·und" in text(app)
    # What was typed stays out of the address.
    assert dict(app.query_params) == {"vocab": str(token)}
    other = offered.options[2]
    offered.select_index(2).run()
    assert fine(app)
    assert other.endswith(f"#{app.number_input(key='vocab').value}")


def test_an_id_in_the_search_or_the_link_is_taken_as_it_is(tab: Tab) -> None:
    app = tab(vocab="500")
    assert "Token 500:" in text(app)
    app.text_input(key="vocabulary_text").input("#77").run()
    assert app.number_input(key="vocab").value == 77
    app.text_input(key="vocabulary_text").input("#99999").run()
    assert fine(app) and "no token #99999; expected #0 to #4095" in app.warning[0].value
    assert app.number_input(key="vocab").value == 77


def test_a_link_to_a_token_that_is_not_there_falls_back_with_a_notice(tab: Tab) -> None:
    app = tab(vocab="4096")
    assert fine(app)
    assert any("vocab" in str(toast.value) or "token" in str(toast.value) for toast in app.toast)


@pytest.mark.parametrize("typed", ["   ", "<script>alert(1)</script>", "$x$ [a](b)"])
def test_anything_can_be_typed(tab: Tab, typed: str) -> None:
    app = tab()
    app.text_input(key="vocabulary_text").input(typed).run()
    assert fine(app)
    assert "<script>" not in "\n".join(element.value for element in app.markdown)


def test_chosen_experts_and_margins_agree_with_the_heatmap_s_data(
    tab: Tab, routers: RouterSet
) -> None:
    from lens.vocabulary.one_token import token_reading

    app = tab(vocab="500")
    embedding = open_embedding(open_checkpoint(BUNDLED_MODEL))
    reading = token_reading(routers, embedding.row(500), embedding.multiplier)
    selections = frames(app)[2]
    assert selections["choice 1"].tolist() == [f"E{e}" for e in reading.chosen[:, 0]]
    rows = np.arange(routers.n_layers)
    np.testing.assert_allclose(
        selections["margin of the last"], reading.margin[rows, reading.chosen[:, -1]]
    )


# --- sources -----------------------------------------------------------------


def test_an_uploaded_set_of_another_model_says_why_there_are_no_tokens(tab: Tab) -> None:
    weights = np.random.default_rng(0).standard_normal((3, 16, 4)).astype(np.float32)
    other = RouterSet(weights, source="made for a test")
    app = tab(state={"uploaded_routers": other}, source="upload")
    assert fine(app) and not app.dataframe
    assert "no model at hand has these routers" in app.info[0].value
    assert "--checkpoint DIR" in app.info[0].value and "norm scales" in app.info[0].value


def test_an_uploaded_set_of_the_bundled_model_uses_its_embedding(
    tab: Tab, routers: RouterSet
) -> None:
    app = tab(state={"uploaded_routers": replace(routers, source="a file")}, source="upload")
    assert fine(app) and not app.info and len(frames(app)) == 3


def test_a_configured_checkpoint_of_other_routers_is_named(
    tab: Tab, routers: RouterSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(data_source.CHECKPOINT_VARIABLE, str(TINY))
    changed = replace(routers, routers=routers.routers * np.float32(1.5))
    app = tab(state={"uploaded_routers": changed}, source="upload")
    assert fine(app)
    assert "configured checkpoint holds other routers" in app.info[0].value
    assert changed.sha256[:12] in app.info[0].value


def test_a_checkpoint_without_a_tokenizer_shows_ids(
    tab: Tab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(data_source.CHECKPOINT_VARIABLE, str(TINY))
    app = tab(source="checkpoint", expert="3")
    assert fine(app) and "this checkpoint has no tokenizer" in text(app)
    top = frames(app)[0]
    assert top["token"].tolist() == [f"#{t}" for t in top["id"]]
    assert not [box for box in app.text_input if box.key == "vocabulary_text"]


def test_a_checkpoint_without_its_embedding_is_explained(
    tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "part"
    shutil.copytree(TINY, folder)
    open_checkpoint(folder).file(EMBEDDING).unlink()
    monkeypatch.setenv(data_source.CHECKPOINT_VARIABLE, str(folder))
    app = tab(source="checkpoint")
    assert fine(app) and "It holds the token embedding" in app.info[0].value


def test_a_damaged_embedding_is_an_error_in_words(
    tab: Tab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(TINY, folder)
    checkpoint = open_checkpoint(folder)
    rows = np.asarray(checkpoint.read(EMBEDDING)).copy()
    rows[7, 3] = np.nan
    from grok.checkpoints.tensor_file import write_tensor

    write_tensor(checkpoint.file(EMBEDDING), rows)
    monkeypatch.setenv(data_source.CHECKPOINT_VARIABLE, str(folder))
    app = tab(source="checkpoint")
    assert not app.exception
    assert "embedding of token 7 is not finite" in app.error[0].value


# --- large embeddings --------------------------------------------------------


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings of any size are read on demand."""
    monkeypatch.setattr(vocabulary_source, "AT_ONCE", 0)
    vocabulary_source._computed.clear()


def test_a_large_embedding_is_read_when_asked_for_and_kept(
    tab: Tab, large: None, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = tab()
    assert fine(app) and "It is read once, in blocks" in text(app)
    assert len(frames(app)) == 1 and not own_cache.exists()  # one token needs one row alone
    app.button(key="vocabulary_read").click().run()
    assert fine(app) and len(frames(app)) == 3
    app.number_input(key="vocab").set_value(9).run()  # the next run has it still
    assert fine(app) and len(frames(app)) == 3

    vocabulary_source._computed.clear()  # another program

    def unread(*_: object) -> None:
        raise AssertionError("the embedding was read again")

    monkeypatch.setattr(TokenEmbedding, "blocks", unread)
    again = tab()
    assert fine(again) and len(frames(again)) == 3


def test_where_nothing_can_be_kept_it_is_said_and_works(
    tab: Tab, large: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file" / "folder"))
    app = tab()
    assert "kept for this session only" in text(app)
    app.button(key="vocabulary_read").click().run()
    assert fine(app) and len(frames(app)) == 3
    app.number_input(key="vocab").set_value(9).run()
    assert fine(app) and len(frames(app)) == 3


def test_a_reading_that_fails_says_so_and_can_be_tried_again(
    tab: Tab, large: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grok.errors import CheckpointError

    def failing(*_: object) -> None:
        raise CheckpointError("tensor00000_000: cannot be read (Input/output error).")

    with monkeypatch.context() as patch:
        patch.setattr(TokenEmbedding, "blocks", failing)
        app = tab()
        app.button(key="vocabulary_read").click().run()
        assert not app.exception and "Input/output error" in app.error[0].value
    app = tab()
    app.button(key="vocabulary_read").click().run()
    assert fine(app) and len(frames(app)) == 3


def test_leaving_stops_the_reading(
    large: None, routers: RouterSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def slowly(
        self: TokenEmbedding, rows: int, progress: Callable[[int, int], None]
    ) -> Iterator[np.ndarray]:
        for token in range(self.n_tokens):
            yield self.row(token)[None]
            read.append(token)
            time.sleep(0.01)
            progress(token + 1, self.n_tokens)

    def leave(share: float, spent: float) -> None:
        if share > 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(TokenEmbedding, "blocks", slowly)
    source = vocabulary_source.Source(
        str(BUNDLED_MODEL), open_embedding(open_checkpoint(BUNDLED_MODEL)), None
    )
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        vocabulary_source.computed(routers, source, ReadoutSettings(draws=100), leave)
    for thread in set(threading.enumerate()) - before:
        thread.join(120)
        assert not thread.is_alive()
    assert 0 < len(read) < source.embedding.n_tokens


FAMILIES = Path(__file__).resolve().parents[2] / "data" / "huggingface"


@pytest.mark.parametrize("name", ["qwen3_moe", "qwen2_moe"])
def test_a_folder_of_another_family_shows_its_own_words(
    tab: Tab, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(data_source.CHECKPOINT_VARIABLE, str(FAMILIES / name))
    app = tab(layer="0", expert="3")
    assert fine(app)
    readout, piece = checkpoint_readout(folder_routers(FAMILIES / name), FAMILIES / name)
    top = frames(app)[0]
    assert top["id"].tolist() == readout.top[0, 3, : len(top)].tolist()
    written = f"#{top['id'][0]}" if piece is None else visible(piece(top["id"][0]))
    assert top["token"][0] == written
    if piece is None:  # ids alone
        app.number_input(key="vocab").set_value(7).run()
        assert fine(app)
    else:
        app.text_input(key="vocabulary_text").input("the").run()
        assert fine(app)
        assert "the".startswith(piece(app.number_input(key="vocab").value).strip("▁"))
