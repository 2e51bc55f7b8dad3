"""The parts of a dictionary's card, as Markdown: no figure without its controls.

What is within a domain or given the token comes first: the bundled model's training drew experts
to domains on purpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from grok.dictionaries.evaluation.labels.probes import mean_scores
from grok.training.card import markdown_table

Found = Mapping[str, Any]
LARGEST_FVU, LARGEST_L0, MOST_DEAD = 0.25, 16, 0.10
EXPECTED = {
    "frozen": "a dictionary of the same training whose directions stay random",
    "random_init": "a dictionary of a model with random weights",
}


def aim(found: Found) -> dict[str, str]:
    """Each part of what a dictionary should reach, with its number and whether it does."""
    own, rows = found["dictionary"], _own_rows(found)

    def said(value: str, met: bool) -> str:
        return f"{value}: {'met' if met else 'missed'}"

    out = {
        "active features a layer": said(f"{own['l0'][-1]:.1f}", round(own["l0"][-1]) <= LARGEST_L0),
        "FVU": said(f"{own['fvu'][-1]:.3f}", own["fvu"][-1] <= LARGEST_FVU),
        "dead": said(
            f"{own['dead'][-1]:.1%} in {found['held_out_tokens']:,} tokens",
            own["dead"][-1] < MOST_DEAD,
        ),
    }
    for name in ("pca_best", "neurons"):
        if name in rows:
            pairs = zip(rows["dictionary"]["fvu"][:-1], rows[name]["fvu"][:-1], strict=True)
            better = sum(a < b for a, b in pairs)
            sites = len(rows[name]["fvu"]) - 1
            out[f"less than {NAMES[name]} leave"] = said(
                f"{rows['dictionary']['fvu'][-1]:.3f} against {rows[name]['fvu'][-1]:.3f}, "
                f"in {better} of {sites} layers",
                better == sites,
            )
    return out


NAMES = {
    "dictionary": "**dictionary**",
    "pca_best": "principal axes, best of each token",
    "pca_first": "principal axes, the first",
    "neurons": "experts' own neurons",
    "token_mean": "mean for the token",
    "bigram_mean": "mean for the token and the one before",
    "shuffled": "another token of the domain",
    "frozen": "random directions, encoders trained",
    "random_init": "a dictionary of a model with random weights",
    "random_init_pca_best": "principal axes of that model, best of each token",
    "mean": "the mean of training text",
    "coordinates": "coordinates of the stream",
    "pca": "principal axes",
}


def sections(found: Found) -> Iterator[str]:
    """All parts."""
    for part in (
        _specificity,
        _layers,
        _curves,
        _standing_in,
        _alone,
        _routes,
        _probes,
        _seeds,
        _rounding,
    ):
        yield from part(found)


def _own_rows(found: Found) -> dict[str, Found]:
    return {row["method"]: row for row in found["curve"]["rows"] if row["level"] == "own"}


def _named(name: str) -> str:
    return NAMES.get(name, name.replace("_", " "))


def _cells(values: Sequence[float | None], digits: int = 3) -> list[str]:
    return ["" if value is None else f"{value:.{digits}f}" for value in values]


def _specificity(found: Found) -> Iterator[str]:
    own = found["specificity"]
    yield "### Features and experts"
    yield (
        "How much likelier a token goes to a feature's best expert when the feature is active, a "
        "mean over features: within domains, and given the token's id. In brackets the same with "
        "experts shuffled among tokens of the domain, or among occurrences of the token. Experts "
        "were drawn to domains when this model was trained, so the last column, where nothing is "
        f"given, is mostly that. {own['tokens']:,} tokens."
    )
    for method, rows in own["methods"].items():
        yield f"{_named(method)}:"
        given = ("domain", "token", "nothing")
        header = ("layer", "within domains", "given the token", "nothing given")
        body = []
        for i, layer in enumerate(own["layers"]):
            cells = [
                "" if rows[one]["mean"][i] is None
                else f"{rows[one]['mean'][i]:.3f} ({rows[one]['shuffled'][i]:.3f})"
                for one in given
            ]  # fmt: skip
            body.append((f"L{layer}", *cells))
        yield markdown_table(header, body)


def _layers(found: Found) -> Iterator[str]:
    own, controls = found["dictionary"], found["controls"]
    yield "### Error by layer"
    yield (
        f"FVU on {found['held_out_tokens']:,} held-out tokens. Controls have as many active "
        f"features; they are fitted on {found['fitted_tokens']:,} tokens of training text."
    )
    header = ("", "L0", "dictionary", *(_named(name) for name in controls), "dead", "dense")
    rows = []
    for i, site in enumerate([*found["sites"], "all"]):
        numbers = [own["fvu"][i], *(values[i] for values in controls.values())]
        more = [own["dead"][i], own["dense"][i]]
        rows.append((site, f"{own['l0'][i]:.1f}", *_cells(numbers), *_cells(more)))
    yield markdown_table(header, rows)


def _curves(found: Found) -> Iterator[str]:
    curve = found["curve"]
    yield "### Curves"
    yield (
        f"Explained variance (EV, 1 - FVU) on {curve['tokens']:,} held-out tokens, and the loss of "
        f"the next token in the model with all layers replaced, on {curve['spliced_tokens']:,} of "
        "them: nats more than the model's own. The dictionary was trained for its own number of "
        "active features; for the others its thresholds were scaled, so one that was trained for "
        "them would do better. *live* follows from the changed run itself, so errors add up; "
        "*offline* is made of the plain run's values, and compares with the dictionary's own "
        "offline run further down. Neurons are given the routes, the gates and the norm's scale."
    )
    rows = []
    for row in curve["rows"]:
        run = row.get("spliced")
        level = "own" if row["level"] == "own" else row["level"]
        rows.append(
            (
                _named(row["method"]),
                level,
                f"{row['l0'][-1]:.1f}",
                f"{1 - row['fvu'][-1]:.3f}",
                *((f"{run['delta_ce']:.3f}", f"{run['same_next']:.1%}", run["mode"]) if run
                  else ("", "", "")),
            )
        )  # fmt: skip
    yield markdown_table(("", "level", "L0", "EV", "loss", "same next token", ""), rows)
    missing = [text for name, text in EXPECTED.items() if name not in _own_rows(found)]
    if missing:
        yield f"Controls that do not stand here yet: {'; '.join(missing)}."


def _standing_in(found: Found) -> Iterator[str]:
    runs = found["spliced"]
    if not runs:
        return
    yield "### The model with all layers replaced"
    yield (
        f"The model's own loss on these {runs['live']['tokens']:,} tokens is "
        f"{runs['live']['ce']:.3f} nats. With the errors added back the largest change of a "
        f"logit is {runs['errors_added']['largest_logit_change']:.1e}; with the values themselves "
        f"put back, which is rounding alone, {runs['put_back']['largest_logit_change']:.1e}."
    )
    header = ("", "loss", "KL", "same next token", "loss recovered", "KL recovered")
    rows = [
        (
            name.replace("_", " "),
            f"{one['delta_ce']:+.3f}",
            f"{one['kl']:.3f}",
            f"{one['same_next']:.1%}",
            *(f"{one[key]:.1%}" if key in one else "" for key in ("ce_recovered", "kl_recovered")),
        )
        for name, one in runs.items()
    ]
    yield markdown_table(header, rows)


def _alone(found: Found) -> Iterator[str]:
    own = found.get("alone")
    if not own:
        return
    yield "### One layer replaced, the others the model's own"
    yield f"Loss in nats, {own['tokens']:,} tokens; the same number of principal axes beside it:"
    header = ("", *(f"L{layer}" for layer in own["layers"]))
    methods = own["methods"]
    body = [
        (_named(name), *(f"{value:+.3f}" for value in one["delta_ce"]))
        for name, one in methods.items()
    ]
    yield markdown_table(header, body)
    yield "Share of the KL of putting zero there that is made good, and of putting the mean there:"
    body = [
        (f"{_named(name)}, {ablated}", *_cells(methods[name][f"kl_recovered_{ablated}"]))
        for name in ("dictionary", "pca_best")
        for ablated in ("zero", "mean")
    ]
    yield markdown_table(header, body)


def _routes(found: Found) -> Iterator[str]:
    rows = _own_rows(found)
    fed = "routers" in rows["dictionary"]
    key = "routers" if fed else "spliced"
    yield "### Routes by layer"
    yield (
        "Share of tokens that go to the same experts, "
        + (
            "each layer's router fed with the reconstruction alone."
            if fed
            else "in the model with all layers replaced."
        )
    )
    shown = {name: row[key] for name, row in rows.items() if key in row}
    if not shown:
        return
    n = len(shown["dictionary"]["same_set"])
    for measure, title in (
        ("same_set", ""),
        ("same_first", "The same first expert:"),
        ("route_kl", "KL of the router's softmax, nats:"),
        ("router_ev", "Explained variance of canonical router logits:"),
    ):
        if title:
            yield title
        body = [(_named(name), *_cells(one[measure])) for name, one in shown.items()]
        yield markdown_table(("", *(f"L{i}" for i in range(n))), body)
    yield "Share of tokens that change their experts, by quarters of the margin, closest first:"
    body = []
    for name, one in shown.items():
        flips = one["flips_by_margin"]
        means = [sum(own[q] for own in flips) / len(flips) for q in range(len(flips[0]))]
        body.append((_named(name), *_cells(means)))
    yield markdown_table(("mean over layers", "1", "2", "3", "4"), body)


def _probes(found: Found) -> Iterator[str]:
    own = found["probes"]
    yield "### Probes"
    yield (
        f"Balanced accuracy of labels told from k features, a mean over layers and classes, on "
        f"{own['tokens']:,} tokens of which half the windows are learned from; 0.5 is chance. "
        "Experts are told within each domain. *shuffled*: the dictionary, with labels of others."
    )
    rows = [
        (label if i == 0 else "", _named(method), *_cells(scores))
        for label, methods in mean_scores(own).items()
        for i, (method, scores) in enumerate(methods.items())
    ]
    yield markdown_table(("", "", *(f"k = {k}" for k in own["k"])), rows)


def _seeds(found: Found) -> Iterator[str]:
    own = found.get("stability")
    yield "### A second seed, duplicates"
    if own:
        yield (
            "Share of features with a partner of cosine above 0.7 in the dictionary of another "
            "seed; below, among as many random directions."
        )
        rows = [("seeds", *_cells(own["share"])), ("chance", *_cells(own["chance_share"]))]
        yield markdown_table(("", *(f"L{i}" for i in range(len(own["share"])))), rows)
    else:
        yield "No second seed stands beside this one yet, so nothing is known of its stability."
    worst = max(found["duplicates"])
    yield f"At most {worst:.2%} of a layer's features have another one within a cosine of 0.9."


def _rounding(found: Found) -> Iterator[str]:
    own = found.get("rounding")
    if own:
        yield "### Rounding"
        yield (
            f"FVU was {own['fvu_before'][-1]:.5f} before the values were rounded to float16 and is "
            f"{own['fvu_after'][-1]:.5f} ({own['tokens']:,} tokens); of what is active in one of "
            f"them, {own['same_active']:.3%} is active in both."
        )
