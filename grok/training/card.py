"""The model card of a trained model, written from its results and from nothing else.

`write_card` takes one dict and writes it twice: as `card.json`, complete, and
as `README.md`, to be read. Every number in the text comes from the dict, so the
card cannot disagree with what was measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grok.config import GrokConfig
from grok.errors import GrokError
from grok.files import write_whole
from grok.training.corpus import FILE_DOMAINS, Domain, EncodedDomain

# Beginnings for the sampled continuations, at least one a domain, written for the
# purpose and not quoted from the texts.
PROMPTS: tuple[tuple[str, str], ...] = (
    ("english_prose", "The old captain looked out over the water and"),
    ("english_prose", "She had not been in the room for five minutes when her sister"),
    ("english_drama", "First Servant:\nMy lord, the king"),
    ("french_prose", "Il poussa la porte de la petite maison et"),
    ("german_prose", "Am nächsten Morgen ging sie langsam durch den Garten und"),
    ("spanish_prose", "Y diciendo esto, el caballero"),
    ("python", "def read_lines(path):\n    "),
    ("python", "class Queue:\n    def __init__(self,"),
    ("arithmetic", "37 + 58 ="),
    ("arithmetic", "12 * 11 ="),
)

_LABELS = {
    "d_model": "width of the residual stream (`d_model`)",
    "d_head": "width of a head",
    "d_ff": "hidden width of an expert",
    "n_layers": "layers",
    "n_heads": "query heads",
    "n_kv_heads": "key/value heads",
    "n_experts": "experts a layer",
    "top_k": "experts a token",
    "vocab_size": "vocabulary",
    "context_length": "context, tokens",
    "parameters": "parameters",
    "active_parameters": "parameters a token passes through",
    "checkpoint_bytes": "checkpoint, bytes",
    "sha256": "SHA-256 of the routers",
}

_LOSSES = {
    "float": "float weights",
    "int8": "int8 weights (bundled)",
    "unigram": "unigram, all domains",
    "unigram_of_domain": "unigram, told the domain",
}

_REQUIRED = (
    "model.n_layers",
    "model.n_experts",
    "model.top_k",
    "model.vocab_size",
    "model.parameters",
    "data",
    "training",
    "evaluation.windows",
    "evaluation.sequence_length",
    "evaluation.tokens",
    "evaluation.int8_over_float",
    "evaluation.expert_load.share",
    "evaluation.expert_load.smallest",
    *(
        f"evaluation.loss.{name}.{part}"
        for name in _LOSSES
        for part in ("overall.nats_per_token", "overall.bits_per_byte", "domains")
    ),
    *(
        f"evaluation.domain_information.{name}.{key}"
        for name in ("assignments", "first_choice")
        for key in ("nats", "null_mean", "null_low", "null_high", "p_value", "draws")
    ),
    "evaluation.domain_information.assignments.domain_entropy",
    "samples",
)


def model_facts(config: GrokConfig, *, checkpoint_bytes: int, sha256: str) -> dict[str, Any]:
    """The `model` part of the results: shape, size and identity.

    Args:
        config: Of the model.
        checkpoint_bytes: Total size of its tensor files.
        sha256: Of its routers, as the traces carry it.
    """
    return {
        **vars(config),
        "d_ff": config.d_ff,
        "parameters": config.n_parameters(),
        "active_parameters": config.n_parameters(active=True),
        "checkpoint_bytes": checkpoint_bytes,
        "sha256": sha256,
    }


def data_facts(
    domains: Mapping[str, Domain],
    encoded: Mapping[str, EncodedDomain],
    weights: Mapping[str, float],
) -> dict[str, Any]:
    """The `data` part of the results: source and size of each domain."""
    return {
        name: {
            "source": domain.source,
            "weight": weights[name],
            "train_characters": len(domain.train_text),
            "heldout_characters": len(domain.heldout_text),
            "train_tokens": len(encoded[name].train),
            "heldout_tokens": len(encoded[name].heldout),
            "bytes_per_token": len(domain.heldout_text.encode()) / len(encoded[name].heldout),
        }
        for name, domain in domains.items()
    }


def write_card(results: Mapping[str, Any], folder: str | Path) -> tuple[Path, Path]:
    """Write `README.md` and `card.json` into `folder` and return their paths.

    Args:
        results: `model` (`model_facts`), `data` (`data_facts`), `training` (settings
            by name, any), `evaluation` (`evaluation.evaluation_summary`), `samples`
            (list of `domain`, `prompt`, `continuation`, and settings by name, any).
        folder: The model's folder.

    Raises:
        GrokError: A needed entry is missing, or a number is not finite. Nothing is written.
    """
    missing = [path for path in _REQUIRED if not _holds(results, path)]
    if missing:
        raise GrokError(
            f"The results for the model card lack {', '.join(missing)}. Evaluate the model and "
            "give the whole results."
        )
    try:
        plain = json.dumps(results, default=_plain, indent=1, allow_nan=False, ensure_ascii=False)
    except ValueError as error:
        raise GrokError(
            f"The results for the model card hold a number that is not finite ({error}). "
            "A loss of a diverged run has no place in a card; train again."
        ) from None
    text = card_text(json.loads(plain))
    readme, record = Path(folder, "README.md"), Path(folder, "card.json")
    write_whole(record, (plain + "\n").encode())
    write_whole(readme, text.encode())
    return readme, record


def card_text(results: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    parts = [
        _opening(results),
        "## Shape\n\n" + _architecture(results["model"]),
        "## Training text\n\n" + _data(results["data"]),
        "## Training\n\n" + _settings(results["training"]),
        "## Loss on held-out text\n\n" + _loss(results),
        "## Load of the experts\n\n" + _load(results),
        "## What the choice of expert tells of the domain\n\n" + _information(results),
        "## Sampled continuations\n\n" + _samples(results["samples"]),
        "## Make it again\n\n" + _REBUILD,
        "## Licence and limits\n\n" + _LIMITS,
    ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


_REBUILD = f"""\
```
python -m grok.train --corpus DIR --output DIR
```

`--corpus` is a folder with the texts named above, as UTF-8, one paragraph or line of verse a line:
{", ".join(f"`{name}.txt`" for name in FILE_DOMAINS)}.
Python source and arithmetic need no file. A run that was stopped goes on where it was. The numbers
of this card are in `card.json`, unrounded; the card is written from them and never by hand."""

_FOCUS = """\
The last steps, the focus steps, add the entropy of each sequence's mean router probabilities to
the loss, with the weight given as focus: the tokens of one text are drawn to the same experts,
while the balance term keeps the load of the whole batch even. No domain label enters, but that
experts follow the domain as closely as shown below was in this way asked for, and did not come by
itself."""

_LIMITS = """\
The weights and this card are under the project's licence, Apache-2.0. The literary texts are in
the public domain in the United States; Python's standard library is under the PSF licence. None of
the text is part of the project.

- The model exists to be looked at: it is small, and what it writes is grammar and habit, not fact.
  Do not rely on its sums. It repeats the views of the books it read, some of them centuries old.
- It is not Grok-1 and was not made from it. What its routers do is an example of what routers of
  this architecture can do after a short training, and no evidence about the released model.
- Held-out text is the end of the same books, other modules of the same library, and other problems
  of the same kinds. Loss on other text is higher.
- The domains differ in language and characters, so an expert that follows the domain may follow
  the alphabet, the spelling or single frequent tokens. The measure does not tell these apart."""


def _opening(results: Mapping[str, Any]) -> str:
    model, evaluation = results["model"], results["evaluation"]
    nats = evaluation["domain_information"]["assignments"]["nats"]
    loss = evaluation["loss"]
    return f"""\
# The bundled model

A small Mixture-of-Experts language model of Grok-1's architecture, in Grok-1's checkpoint format:
{model["n_layers"]} layers, {model["n_experts"]} experts a layer of which a token uses \
{model["top_k"]}, {_number(model["parameters"])} parameters. It was
trained from nothing on {len(results["data"])} domains of text, so that its routing is worth
looking at.

| on held-out text | |
|---|---|
| loss, int8 weights | {loss["int8"]["overall"]["nats_per_token"]:.3f} nats a token |
| loss, unigram baseline | {loss["unigram"]["overall"]["nats_per_token"]:.3f} nats a token |
| int8 against float | {_percent_change(evaluation["int8_over_float"])} loss |
| least used expert of any layer | {evaluation["expert_load"]["smallest"]:.1%} of assignments |
| domain and expert share | {min(nats):.2f} to {max(nats):.2f} nats, by layer |"""


def _architecture(model: Mapping[str, Any]) -> str:
    rows = [(label, _number(model[key])) for key, label in _LABELS.items() if key in model]
    return markdown_table(("", ""), rows)


def _data(data: Mapping[str, Any]) -> str:
    rows = [
        (
            _name(name),
            entry["source"],
            f"{entry['weight']:.0%}",
            _number(entry["train_tokens"]),
            _number(entry["heldout_tokens"]),
            f"{entry['bytes_per_token']:.2f}",
        )
        for name, entry in data.items()
    ]
    header = ("domain", "source", "share of sequences", "tokens", "held out", "bytes a token")
    return (
        "The end of each text is held out, from the start of a line: neither the model nor its "
        "vocabulary is trained on it.\n\n" + markdown_table(header, rows)
    )


def _settings(training: Mapping[str, Any]) -> str:
    rows = [(_name(key), _number(value)) for key, value in training.items()]
    table = markdown_table(("setting", "value"), rows)
    return (
        f"{table}\n\n{_FOCUS}" if training.get("focus") and training.get("focus_steps") else table
    )


def _loss(results: Mapping[str, Any]) -> str:
    evaluation, loss = results["evaluation"], results["evaluation"]["loss"]
    tables = []
    for unit, key in (("Nats a token", "nats_per_token"), ("Bits a byte", "bits_per_byte")):
        rows = [
            (_name(name), *(f"{loss[column]['domains'][name][key]:.3f}" for column in _LOSSES))
            for name in loss["int8"]["domains"]
        ]
        overall = (f"**{loss[column]['overall'][key]:.3f}**" for column in _LOSSES)
        rows.append(("**all tokens**", *overall))
        tables.append(markdown_table((unit, *_LOSSES.values()), rows))
    return f"""\
{_number(evaluation["tokens"])} tokens in {_number(evaluation["windows"])} windows of \
{_number(evaluation["sequence_length"])}: every held-out token but the
first of each domain is predicted once, from what its window holds before it. The unigram
baselines are token frequencies of the training text with one added to every count; the one that
is told the domain uses that domain's frequencies.

{tables[0]}

{tables[1]}

The int8 weights' loss is {evaluation["int8_over_float"]:.4f} times the float weights' \
({_percent_change(evaluation["int8_over_float"])})."""


def _load(results: Mapping[str, Any]) -> str:
    share = results["evaluation"]["expert_load"]["share"]
    n_experts = results["model"]["n_experts"]
    rows = [
        (
            f"L{layer}",
            f"{min(row):.1%} (E{int(np.argmin(row))})",
            f"{max(row):.1%} (E{int(np.argmax(row))})",
        )
        for layer, row in enumerate(share)
    ]
    return (
        "Share of the (token, slot) assignments on held-out text; an even load is "
        f"{1 / n_experts:.1%}. The least over all layers and experts is "
        f"{results['evaluation']['expert_load']['smallest']:.2%}.\n\n"
        + markdown_table(("layer", "least", "most"), rows)
    )


def _information(results: Mapping[str, Any]) -> str:
    information = results["evaluation"]["domain_information"]
    every, first = information["assignments"], information["first_choice"]
    rows = [
        (
            f"L{layer}",
            f"{every['nats'][layer]:.3f}",
            _null(every, layer),
            f"{every['p_value'][layer]:.3f}",
            f"{first['nats'][layer]:.3f}",
            _null(first, layer),
            f"{first['p_value'][layer]:.3f}",
        )
        for layer in range(len(every["nats"]))
    ]
    header = ("layer", "all choices", "null", "p", "first choice", "null", "p")
    return f"""\
Mutual information between the domain of a token and the expert it chose, in nats, on held-out
text: 0 when the choice says nothing of the domain, at most {every["domain_entropy"]:.3f} (the \
entropy of the
domain). The null is the same estimate after the domain labels were shuffled over whole windows,
{_number(every["draws"])} times: its mean and, in brackets, its central 95 %. The estimate from \
frequencies is biased
upwards; the null's mean shows by how much. p is the share of shuffles at least as large, the data
itself counted once.

{markdown_table(header, rows)}"""


def _null(information: Mapping[str, Any], layer: int) -> str:
    mean, low, high = (information[f"null_{part}"][layer] for part in ("mean", "low", "high"))
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def _samples(samples: Sequence[Mapping[str, Any]]) -> str:
    blocks = []
    for sample in samples:
        settings = [
            f"{_name(key)} {_number(value)}"
            for key, value in sample.items()
            if key not in ("domain", "prompt", "continuation")
        ]
        text = f"{sample['prompt']}▸{sample['continuation']}".replace("\0", "\ufffd")
        runs = [len(run) for run in re.findall("`+", text)]
        fence = "`" * max(3, *(run + 1 for run in runs), 0)
        title = ", ".join([f"**{_name(sample['domain'])}**", *settings])
        blocks.append(f"{title}\n\n{fence}text\n{text}\n{fence}")
    return "\n\n".join(
        [
            f"{len(samples)} prompts, none of them chosen after seeing what came of it; "
            "▸ is where the model takes over.",
            *blocks,
        ]
    )


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown; a bar within a cell is escaped."""
    lines = [[str(cell).replace("|", "\\|") for cell in cells] for cells in (header, *rows)]
    first, *others = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([first, "|" + "---|" * len(header), *others])


def _name(key: str) -> str:
    return key.replace("_", " ")


def _number(value: Any) -> str:
    """A setting as text: thousands apart, floats to six digits, anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def _percent_change(ratio: float) -> str:
    return f"{ratio - 1:+.2%}"


def _holds(results: Any, path: str) -> bool:
    for key in path.split("."):
        if not isinstance(results, Mapping) or key not in results:
            return False
        results = results[key]
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return value.name
    raise TypeError(f"{type(value).__name__} is not fit for JSON")
