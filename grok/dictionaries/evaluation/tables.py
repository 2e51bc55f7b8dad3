"""An evaluation as lines of text: no figure without its controls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from grok.dictionaries.evaluation.labels.probes import mean_scores

COLUMNS = ("l0", "fvu", "ev", "mse", "cosine", "norm_ratio", "dead", "dense")


def tables(found: Mapping[str, Any]) -> str:
    """The measures as lines."""
    needed = {
        _sites: "dictionary",
        _curve: "curve",
        _routers: "curve",
        _standing_in: "spliced",
        _alone: "alone",
        _probes: "probes",
        _specificity: "specificity",
        _stability: "stability",
    }
    return "\n".join(line for part, key in needed.items() if found.get(key) for line in part(found))


def _sites(found: Mapping[str, Any]) -> Iterator[str]:
    own, controls = found["dictionary"], found["controls"]
    yield (
        f"{found['held_out_tokens']:,} held-out tokens; controls' FVU at the same L0, fitted on "
        f"{found['fitted_tokens']:,} others"
    )
    yield _line("", (*COLUMNS, *controls))
    for i, name in enumerate([*found["sites"], "all"]):
        # A crosscoder has one group for all sites.
        numbers = [own[c][min(i, len(own[c]) - 1)] for c in COLUMNS]
        yield _line(name, [*numbers, *(values[i] for values in controls.values())])


def _curve(found: Mapping[str, Any]) -> Iterator[str]:
    curve = found["curve"]
    yield ""
    yield (
        f"at several L0 (thresholds scaled, not trained for it); {curve['tokens']:,} tokens, "
        f"{curve['spliced_tokens']:,} through the changed model"
    )
    yield _line("", ("level", "l0", "fvu", "cosine", "dCE", "KL", "same_next", "same_set", "run"))
    for row in curve["rows"]:
        run = row.get("spliced", {})
        routes = (row.get("routers") or run).get("same_set")
        yield _line(
            row["method"],
            (
                row["level"],
                row["l0"][-1],
                row["fvu"][-1],
                row["cosine"][-1],
                *(run.get(name, "") for name in ("delta_ce", "kl", "same_next")),
                sum(routes) / len(routes) if routes else "",
                run.get("mode", ""),
            ),
        )


def _standing_in(found: Mapping[str, Any]) -> Iterator[str]:
    runs = found["spliced"]
    yield ""
    yield f"all layers replaced; plain loss {runs['live']['ce']:.4f} nats"
    for name, one in runs.items():
        yield (
            f"{name:18s} {one['delta_ce']:+.4f} nats, KL {one['kl']:.4f}, same next token "
            f"{one['same_next']:.1%}"
            + (f", CE recovered {one['ce_recovered']:.1%}, KL {one['kl_recovered']:.1%}"
               if "ce_recovered" in one else "")
            + (f", largest change of a logit {one['largest_logit_change']:.1e}"
               if name in ("errors_added", "put_back") else "")
        )  # fmt: skip


def _alone(found: Mapping[str, Any]) -> Iterator[str]:
    own = found["alone"]
    yield ""
    yield f"nats lost with one layer replaced, the others the model's own; {own['tokens']:,} tokens"
    yield _line("", [f"L{layer}" for layer in own["layers"]])
    for method, numbers in own["methods"].items():
        yield _line(method, numbers["delta_ce"])


def _routers(found: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield "same experts, by layer"
    for row in found["curve"]["rows"]:
        routes = row.get("routers") or row.get("spliced")
        if row["level"] == "own" and routes:
            yield _line(row["method"], routes["same_set"])


def _probes(found: Mapping[str, Any]) -> Iterator[str]:
    own = found["probes"]
    yield ""
    yield f"probes on k features, balanced accuracy, {own['tokens']:,} tokens; chance 0.5"
    for label, methods in mean_scores(own).items():
        yield _line(label, [f"k={k}" for k in own["k"]])
        for method, scores in methods.items():
            yield _line(f"  {method}", scores)


def _specificity(found: Mapping[str, Any]) -> Iterator[str]:
    own = found["specificity"]
    yield ""
    yield "P(expert | feature) - P(expert), given what, by layer; above: of 99 % of shuffled ones"
    for method, rows in own["methods"].items():
        for given, one in rows.items():
            for key in ("mean", "shuffled", "above"):
                values = ["" if v is None else v for v in one[key]]
                yield _line(f"{method[:10]} {given} {key}", values)


def _stability(found: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield "share of features that the other seed has too (cosine above 0.7), and by chance"
    yield _line("", found["stability"]["share"])
    yield _line("chance", found["stability"]["chance_share"])


def _line(name: str, values: Any) -> str:
    cells = (f"{v:10.4f}" if isinstance(v, float) else f"{v:>10}" for v in values)
    return f"{name:24s}" + " ".join(cells)
