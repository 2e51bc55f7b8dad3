"""Figures and tables of what experts listen to hold the numbers, and say what chance is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lens import figures as all_figures
from lens.errors import LensError
from lens.figures.routers import vocabulary as figures
from lens.report.vocabulary import vocabulary_parts
from lens.routers.router_set import RouterSet
from lens.storage import csv_text
from lens.tables.vocabulary import listening_csv, reading_csv, tokens_csv
from lens.vocabulary.one_token import TokenReading, token_reading
from lens.vocabulary.readout import ArrayRows, Readout, ReadoutSettings, vocabulary_readout
from tests.lens.figures.figure_reading import first, mark, marks, rows, selection, title_text, views

LABELS = ["L2", "L5", "L9"]


def routers(n_experts: int = 4, n_layers: int = 3) -> RouterSet:
    weights = np.random.default_rng(0).standard_normal((n_layers, 24, n_experts))
    return RouterSet(weights.astype(np.float32), layer_ids=np.arange(n_layers) * 3 + 2)


def words() -> np.ndarray:
    rows = np.random.default_rng(1).standard_normal((80, 24)).astype(np.float32)
    rows[33] = 9 * routers().columns()[1, :, 2]
    return rows


@pytest.fixture(scope="module")
def readout() -> Readout:
    return vocabulary_readout(routers(), ArrayRows(words()), ReadoutSettings(kept=5))


@pytest.fixture(scope="module")
def reading() -> TokenReading:
    return token_reading(routers(), words()[33])


def bars(readout: Readout, end: str = "top"):
    at = (1, 2)
    ids = getattr(readout, end)[at]
    return figures.token_pushes(
        [f"<{t}>" for t in ids],
        ids,
        getattr(readout, f"{end}_push")[at],
        getattr(readout, f"{end}_margin")[at],
        figures.PushBand(*readout.mixed_band(*at, end), readout.mixtures),
        label="L5·E2",
        end=end,
    )


@pytest.mark.parametrize("end", ["top", "bottom"])
def test_bars_hold_each_token_with_its_push_margin_and_band(readout: Readout, end: str) -> None:
    chart = bars(readout, end)
    found = rows(first(chart, "bar"))
    low, high = readout.mixed_band(1, 2, end)
    assert [row["token"] for row in found] == getattr(readout, end)[1, 2].tolist()
    for rank, row in enumerate(found):
        assert row["push"] == pytest.approx(getattr(readout, f"{end}_push")[1, 2, rank], rel=1e-5)
        assert (row["low"], row["high"]) == pytest.approx((low[rank], high[rank]), rel=1e-5)
        selected = getattr(readout, f"{end}_margin")[1, 2, rank] > 0
        assert row["selected"] == ("yes" if selected else "no")
    assert "mixed experts" in title_text(chart) and "embedding alone" in title_text(chart)
    assert selection(chart)["fields"] == ["token"]
    # What lies on top gets the click: a row of its own for each token, over bars and band.
    over = views(chart.to_dict())[-1]
    assert mark(over) == "rect" and "x" not in over["encoding"] and len(rows(over)) == 5
    assert [one["name"] for one in over["params"]] == ["pick"]
    assert "L5·E2" in all_figures.alt_text(chart)


def test_bars_keep_tokens_of_equal_text_apart_and_show_blanks() -> None:
    chart = figures.token_pushes(
        ["▁a", "▁a", "\n"],
        np.arange(3),
        np.array([3.0, 2, 1]),
        np.full(3, np.nan),
        figures.PushBand(np.zeros(3), np.ones(3), 1000),
        label="L0·E0",
    )
    names = [row["name"] for row in rows(first(chart, "bar"))]
    assert len(set(names)) == 3 and "·a" in names[0] and "\\n" in names[2]


@pytest.mark.parametrize("what", ["push", "margin", "standing"])
def test_a_token_s_map_holds_every_expert_and_numbers_its_choices(
    reading: TokenReading, what: str
) -> None:
    standing = np.arange(12.0).reshape(3, 4)
    chart = figures.token_expert_map(
        reading, LABELS, "▁word", what, standing=standing, picked=(1, 2)
    )
    values = {"push": reading.push, "margin": reading.margin, "standing": standing}[what]
    for row in rows(first(chart, "rect")):
        assert row["value"] == pytest.approx(values[row["layer"], row["expert"]], rel=1e-5)
        assert row["name"] == f"{LABELS[row['layer']]}·E{row['expert']}"
    signs = {(row["x"], row["y"]): row["sign"] for row in rows(first(chart, "text"))}
    assert signs == {
        (LABELS[layer], f"E{expert}"): str(rank + 1)
        for layer, chosen in enumerate(reading.chosen)
        for rank, expert in enumerate(chosen)
    }
    assert "·word" in title_text(chart)
    assert selection(chart)["fields"] == ["layer", "expert"]
    outline = [view for view in views(chart.to_dict()) if mark(view) == "rect"][1]
    assert rows(outline) == [{"x": "L5", "y": "E2"}]


@pytest.mark.parametrize("measure", list(figures.MEASURES))
def test_the_map_of_all_experts_dots_those_beyond_mixed_experts(
    readout: Readout, measure: str
) -> None:
    chart = figures.vocabulary_map(readout, LABELS, measure)
    if measure == "share":
        beyond = (readout.share < readout.share_low) | (readout.share > readout.share_high)
        values, middle = readout.share, 0.5
    else:
        beyond = readout.beyond_mixed(measure)
        own = {"spread": readout.sd, "top": readout.top_push[..., 0]}
        own["bottom"] = readout.bottom_push[..., 0]
        values, middle = own[measure] / readout.norm, None
    cells = first(chart, "rect")
    for row in rows(cells):
        assert row["value"] == pytest.approx(values[row["layer"], row["expert"]], rel=1e-5)
    dots = [r for view in views(chart.to_dict()) if mark(view) == "text" for r in rows(view)]
    assert {(row["x"], row["y"]) for row in dots} == {
        (LABELS[layer], f"E{expert}") for layer, expert in np.argwhere(beyond)
    }
    if measure == "top":
        assert ("L5", "E2") in {(row["x"], row["y"]) for row in dots}
    scale = cells["encoding"]["color"]["scale"]
    assert middle is None or scale["domainMid"] == middle
    assert measure in ("top", "bottom") or scale["domain"][0] >= 0


def test_written_tokens_are_the_first_of_every_expert(readout: Readout) -> None:
    texts = {int(t): f"w{t}" for t in np.unique(readout.top)}
    cells = rows(first(figures.written_tokens(readout, LABELS, texts), "rect"))
    assert len(cells) == 12
    for cell in cells:
        ids = readout.top[cell["layer"], cell["expert"], :3]
        assert cell["text"].split("  |  ") == [f"w{t}" for t in ids]
        called = readout.beyond_mixed("top")[cell["layer"], cell["expert"]]
        assert cell["beyond"] == ("yes" if called else "no")


def test_too_many_experts_to_write_beside_each_other_are_refused_with_the_way_out() -> None:
    many = vocabulary_readout(routers(20), ArrayRows(words()), ReadoutSettings(kept=3, draws=100))
    with pytest.raises(LensError, match="20 experts a layer are too many.*table"):
        figures.written_tokens(many, LABELS, {})


def test_maps_of_many_experts_stay_within_what_a_browser_draws() -> None:
    n_layers, n_experts = 128, 256
    rng = np.random.default_rng(0)
    push = rng.standard_normal((n_layers, n_experts))
    reading = TokenReading(
        push=push,
        margin=push,
        chosen=np.argsort(-push, axis=1)[:, :2],
        z=push,
        p=np.ones_like(push),
        q=np.ones_like(push),
        unrelated_p=np.ones_like(push),
        unrelated_q=np.ones_like(push),
    )
    chart = figures.token_expert_map(reading, [f"L{i}" for i in range(128)], "a", picked=(5, 201))
    assert marks(chart) <= 20_000
    assert "Rows of 2 experts" in title_text(chart)


@pytest.mark.parametrize("kind", ["bars", "map", "written", "token"])
def test_every_figure_exports(readout: Readout, reading: TokenReading, kind: str) -> None:
    texts = {int(t): 'a <b> & "c" \'$x$' for t in np.unique(readout.top)}
    chart = {
        "bars": lambda: bars(readout),
        "map": lambda: figures.vocabulary_map(readout, LABELS),
        "written": lambda: figures.written_tokens(readout, LABELS, texts),
        "token": lambda: figures.token_expert_map(reading, LABELS, "</svg>"),
    }[kind]()
    svg = all_figures.figure_svg(chart)
    assert svg.startswith("<svg") and svg.count("</svg>") == 1


def read(text: str) -> list[dict[str, str]]:
    header, *rows = csv_text.read_csv(text)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_the_table_of_tokens_names_units_and_holds_both_ends(readout: Readout) -> None:
    table = read(tokens_csv(readout, LABELS, lambda t: f'"{t}", x'))
    assert len(table) == 2 * 12 * 5
    row = next(r for r in table if r["layer"] == "L5" and r["expert (index in its layer)"] == "2")
    assert row["token (id)"] == "33" and row["piece"] == '"33", x' and row["end"] == "top"
    assert float(row["push (logits)"]) == pytest.approx(readout.top_push[1, 2, 0])
    assert float(row["mixed experts of the layer, high (97.5 %)"]) < float(row["push (logits)"])
    part = read(tokens_csv(readout, LABELS, None, kept=2, only=(1, 2), ends=("bottom",)))
    assert [r["token (id)"] for r in part] == [str(t) for t in readout.bottom[1, 2, :2]]
    assert all(r["piece"] == "" for r in part)


def test_the_table_of_experts_holds_values_beside_chance_and_q(readout: Readout) -> None:
    table = read(listening_csv(readout, LABELS))
    assert len(table) == 12
    row = table[1 * 4 + 2]
    assert (row["layer"], row["expert (index in its layer)"]) == ("L5", "2")
    assert float(row["q of top (Benjamini-Hochberg over all)"]) == pytest.approx(
        readout.q[0, 1, 2], rel=1e-6
    )
    low = float(row["share of mixed experts as long, low (2.5 %)"])
    assert low == pytest.approx(readout.share_low[1, 2])


def test_the_table_of_a_token_numbers_its_choices(reading: TokenReading) -> None:
    table = read(reading_csv(reading, LABELS))
    chosen = [row for row in table if row["choice (1: first; 0: not selected)"] == "1"]
    assert [(row["layer"], int(row["expert (index in its layer)"])) for row in chosen] == [
        (label, int(expert)) for label, expert in zip(LABELS, reading.chosen[:, 0], strict=True)
    ]
    assert all(float(row["margin (logits)"]) > 0 for row in chosen)


def test_the_report_s_parts_can_all_be_made_and_say_how_chance_was_drawn(readout: Readout) -> None:
    parts = vocabulary_parts(readout, routers(), LABELS, lambda t: f"t{t}")
    assert len({part.name for part in parts}) == len(parts) == 7
    made = {part.name: part.make() for part in parts}
    assert isinstance(made["vocabulary_tokens"], str) and "t33" in made["vocabulary_tokens"]
    assert isinstance(made["vocabulary_experts"], str)
    spread, share = made["vocabulary_spread"], made["vocabulary_share"]
    assert all_figures.chart_title(spread) != all_figures.chart_title(share)  # type: ignore[arg-type]
    for part in parts:
        assert part.settings["vocabulary"]["directions"] == 400
        assert part.settings["vocabulary"]["seed"] == 0
    ids = vocabulary_parts(readout, routers(), LABELS)
    assert "#33" in str(next(part for part in ids if part.name == "vocabulary_tokens").make())


def test_another_seed_is_written_into_the_report(readout: Readout) -> None:
    other = replace(readout, settings=replace(readout.settings, seed=5))
    assert vocabulary_parts(other, routers(), LABELS)[0].settings["vocabulary"]["seed"] == 5
