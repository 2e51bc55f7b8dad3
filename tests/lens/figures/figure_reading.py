"""Reading of a figure's specification: its rows, marks, selections and titles."""

from __future__ import annotations

from typing import Any


def views(spec: dict[str, Any], datasets: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Every part of a specification that has a mark of its own, bottom first, with its rows."""
    datasets = spec.get("datasets", datasets)
    data = spec.get("data")
    if "mark" in spec:
        return [{**spec, "rows": list(datasets[data["name"]]) if data else None}]
    parts = [part for key in ("layer", "vconcat", "hconcat") for part in spec.get(key, [])]
    parts += [spec["spec"]] if "spec" in spec else []
    inherited = {} if data is None else {"data": data}
    return [view for part in parts for view in views({**inherited, **part}, datasets)]


def mark(view: dict[str, Any]) -> str:
    return view["mark"]["type"] if isinstance(view["mark"], dict) else view["mark"]


def rows(view: dict[str, Any]) -> list[dict[str, Any]]:
    return view["rows"]


def first(chart: Any, kind: str) -> dict[str, Any]:
    """The lowest view of a chart with this mark."""
    return next(view for view in views(chart.to_dict()) if mark(view) == kind)


def room(chart: Any) -> list[float]:
    """Values that an axis makes room for, beside those that are drawn."""
    return [row["value"] for row in rows(first(chart, "point"))]


def marks(chart: Any) -> int:
    """Number of marks that a browser draws."""
    return sum(len(rows(view)) for view in views(chart.to_dict()))


def selection(chart: Any) -> dict[str, Any]:
    """The selection named "pick"."""
    spec = chart.to_dict()
    found = [
        p for one in [spec, *views(spec)] for p in one.get("params", []) if p["name"] == "pick"
    ]
    assert len(found) == 1
    return found[0]["select"]


def title_text(chart: Any) -> str:
    """Title and second lines as one text, line ends as blanks."""
    title = chart.to_dict()["title"]
    return " ".join([title["text"], *title["subtitle"]])
