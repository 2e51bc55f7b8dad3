"""How a value was made is noted, and the program written from it makes it again."""

from __future__ import annotations

import importlib
import io
import pkgutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from lens import figures
from lens.errors import LensError
from lens.recipe import steps
from lens.recipe.program import program
from lens.recipe.steps import Call, Given, Part, Plain, node_of, note, remembered
from lens.routers.router_set import RouterSet, layer_labels, load_routers, save_routers, with_top_k
from lens.stats.chance import chance_of


@dataclass(frozen=True, eq=False)
class Pair:
    first: np.ndarray
    second: tuple[np.ndarray, ...]


@remembered
def grid(n: int) -> np.ndarray:
    return np.arange(n * n, dtype=np.float64).reshape(n, n)


@remembered
def pair(n: int) -> Pair:
    return Pair(grid(n), (grid(n), grid(n)))


@remembered
def total(values: Any, *, scale: float = 1.0, told: Any = None) -> np.ndarray:
    parts = values.values() if isinstance(values, dict) else [values]
    return np.array([sum(float(np.sum(one)) for one in parts) * scale])


def again(value: Any) -> Any:
    space: dict[str, Any] = {}
    exec(program(value, name="value"), space)
    return space["value"]


@pytest.mark.parametrize(
    "index",
    [2, (2, 1), (slice(None), 1), slice(1, 3), (slice(1, 3), slice(0, 2)), (2, slice(1, 4))],
)
def test_a_window_of_a_result_is_known_by_its_indices(index):
    whole = grid(4)
    view = whole[index]
    if isinstance(view, np.float64):
        assert isinstance(node_of(view), Plain)
        return
    node = node_of(view)
    assert isinstance(node, Part)
    np.testing.assert_array_equal(eval(f"whole{node.suffix}"), view)
    np.testing.assert_array_equal(again(total(view)), total(view))


def test_parts_of_a_result_lead_back_to_it():
    found = pair(3)
    assert "pair.first" in program(total(found.first))
    several = {"one": found.first, "two": found.first}
    np.testing.assert_array_equal(again(total(several, scale=2.0)), total(several, scale=2.0))


def test_what_is_written_twice_is_computed_once():
    text = program(total({"a": grid(3), "b": grid(3)}))
    assert text.count("grid(3)") == 1


def test_functions_that_are_told_of_progress_are_left_out():
    assert "told" not in program(total(grid(2), told=lambda done: None))


def test_small_arrays_are_written_out_and_large_ones_refused():
    np.testing.assert_array_equal(again(total(np.eye(2, dtype=np.float32))), [2.0])
    with pytest.raises(LensError, match="not noted"):
        program(total(np.zeros((50, 50))))
    with pytest.raises(LensError, match="not noted"):
        program(np.zeros(2))


def test_texts_from_outside_stay_texts():
    nasty = 'a"b\'c\\ \n"""; import os'
    space: dict[str, Any] = {}
    exec(program(chance_of(np.arange(4.0), 0, nasty), name="value"), space)
    assert space["value"].method == nasty


def test_results_are_not_kept_alive():
    before = len(steps._made)
    kept = [grid(50) for _ in range(20)]
    assert len(steps._made) == before + 20
    kept.clear()
    assert len(steps._made) == before


def test_a_router_set_is_read_from_the_file_that_was_opened(tmp_path, monkeypatch):
    weights = np.random.default_rng(0).standard_normal((3, 40, 4)).astype(np.float32)
    save_routers(RouterSet(weights), tmp_path / "mine.npz")
    file = io.BytesIO((tmp_path / "mine.npz").read_bytes())
    file.name = "/somewhere/mine.npz"
    routers = with_top_k(load_routers(file), 3)
    text = program(layer_labels(routers), name="value")
    assert '# "mine.npz" was opened on the page' in text and "somewhere" not in text
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    exec(text, space)
    assert space["value"] == layer_labels(routers)
    assert space["routers_2"].key == routers.key


def test_a_set_of_unknown_origin_is_a_file_to_be_named(tmp_path):
    routers = RouterSet(np.random.default_rng(0).standard_normal((3, 40, 4)).astype(np.float32))
    assert isinstance(node_of(routers), Given)
    assert 'load_routers("routers.npz")' in program(layer_labels(routers))


def test_a_result_made_in_another_way_can_be_noted():
    value = np.full((30, 30), 3.0)
    note(value, grid, 5)
    assert "grid(5)" in program(total(value))


def test_every_figure_is_remembered():
    """A figure that is not has no code to be copied."""
    forgotten = []
    for module in pkgutil.walk_packages(figures.__path__, "lens.figures."):
        for name, function in vars(importlib.import_module(module.name)).items():
            made = getattr(function, "__annotations__", {}).get("return", "")
            own = getattr(function, "__module__", "") == module.name and not name.startswith("_")
            own = own and module.name.count(".") > 2  # other files hold parts of figures
            if own and str(made).startswith("alt.") and "Chart" in str(made):
                if not hasattr(function, "__wrapped__"):
                    forgotten.append(f"{module.name}.{name}")
    assert not forgotten


def test_a_value_is_written_out_where_what_it_was_made_from_is_not_known():
    @remembered
    def mean(values):
        return values.mean(axis=0)

    found = mean(np.random.default_rng(0).normal(size=(3000, 3)))
    assert isinstance(node_of(found), Plain)
    assert isinstance(node_of(mean(np.ones((2, 3)))), Call)
