"""The field's words, each in a sentence or two: pages show them on hover, the docs as a page."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

TERMS = {
    "token": "A piece of text that the model reads as one unit: a word, a part of a word, a mark.",
    "layer": "One of the model's steps. A token passes through all of them in order, and each "
    "adds something to what is known of the token.",
    "residual stream": "What a token carries from layer to layer: a list of numbers, as many as "
    "the model is wide, to which every layer adds.",
    "Mixture of Experts": "A model whose layers hold several feed-forward networks, of which each "
    "token uses only a few.",
    "expert": "One of the feed-forward networks of a layer. L2·E3 is expert 3 of layer 2. The "
    "number means nothing across layers: E3 of another layer is another network.",
    "router": "The part of a layer that chooses a token's experts: a column of weights for each "
    "expert, multiplied with what the token carries.",
    "routing": "Which experts each token goes to in each layer, and with what shares.",
    "trace": "A text's routing, written down: what every layer's router gave every token.",
    "prompt": "The text that the model is given. What it writes after it is generated.",
    "logit": "A score before it is made a probability. The router gives one to every expert, the "
    "end of the model one to every possible next token.",
    "softmax": "The rule that makes probabilities of logits: all positive, together 1. What is "
    "added to all logits alike changes nothing.",
    "gate": "The share with which an expert's output counts: made of the router's logits, "
    "mostly by a softmax.",
    "first choice": "The expert with a token's largest gate in a layer.",
    "top k": "How many experts a token uses in a layer: those with the k largest logits.",
    "mix": "The shares in which a token's chosen experts are added up.",
    "margin": "How clear a choice was: the logit of the last expert chosen less that of the first "
    "one left out. Near 0 a small push would change the choice.",
    "lead": "The largest logit less the second largest. It decides the mix, not the choice.",
    "push": "How much something raises an expert's logit.",
    "load": "The share of a layer's assignments that an expert gets. The even share is one "
    "divided by the number of experts.",
    "co-selection": "Two experts chosen by the same token.",
    "lift": "How many times as often two things come together as their shares alone would make "
    "them. 1 is chance.",
    "agreement": "The share of a token's experts that its counterpart in another text has too.",
    "breadth": "How likely an expert is to be chosen if nothing is known of the token: its share "
    "when all directions of the residual stream are equally likely.",
    "entropy": "How undecided a choice is, in nats: 0 when one outcome is certain, largest when "
    "all are equally likely.",
    "nats": "The unit of information with natural logarithms: 1 nat is 1.44 bits. Being told "
    "which of 8 equally likely experts is chosen is worth 2.08 nats.",
    "KL": "Kullback–Leibler divergence: how far one set of probabilities is from another, in "
    "nats. 0 when they are equal.",
    "logit lens": "What the model would say next if it stopped after a layer: its last step put "
    "behind that layer.",
    "cosine": "How alike two directions are: 1 the same, 0 unrelated, −1 opposite.",
    "CKA": "Centred kernel alignment: how alike two layers' routers are, whichever way their "
    "experts are numbered. 1 the same up to rotation and scale, 0 nothing in common.",
    "canonical": "The router as it acts: the norm before it folded in, and what all experts share "
    "taken off, because softmax cannot see that. The raw weights are as stored.",
    "norm scale": "The factors by which the norm before a router stretches each coordinate of "
    "what the router reads.",
    "norm": "The length of a list of numbers. An expert whose column of weights is longer has "
    "larger logits.",
    "chain": "An expert followed from layer to layer by its most alike partner in the next.",
    "ban": "An intervention: the expert cannot be chosen, and the others share its part.",
    "patch": "An intervention: a value from the run of another text is put in the place of this "
    "run's own.",
    "temperature": "What logits are divided by before the softmax: above 1 choices become more "
    "even, below 1 more decided.",
    "top p": "Where a next token is drawn from: the likeliest ones that together have this "
    "probability.",
    "cut": "Where a tree is cut, its branches are the groups.",
    "linkage": "What counts as the distance between two groups: of the nearest two, the furthest "
    "two, or the mean of all.",
    "support": "How often a branch comes back when the tree is made again from resampled weights.",
    "silhouette": "How compact groups are and how far apart: 1 clearly, 0 not at all.",
    "trustworthiness": "Whether neighbours on a map are neighbours in truth: 1 all, about 0.5 "
    "for points at random.",
    "MDS": "Multidimensional scaling: a map whose distances are as near the true ones as they can "
    "be.",
    "PCA": "Principal components: a map along the directions in which things differ most.",
    "t-SNE": "A map that keeps near neighbours and bends all else; only small distances mean "
    "something.",
    "UMAP": "A map that keeps near neighbours and bends all else; only small distances mean "
    "something.",
    "chance": "What the same number is when there is nothing to find. Every effect stands beside "
    "it.",
    "null": "Data drawn so that what is asked about is lost and all else is kept. A finding has "
    "to beat it.",
    "draws": "How often the null was made. More of them tell smaller p-values apart.",
    "seed": "The number that random draws start from: the same seed gives the same draws.",
    "mixed experts": "A null: the experts of a layer, mixed among themselves at random. They read "
    "the same directions, but which one reads what is lost.",
    "unrelated directions": "A null: directions drawn at random, which share nothing.",
    "p": "How often chance alone gives a number at least as large. Small means surprising.",
    "q": "p when many things are asked at once: of all findings with q at most 0.05, one in "
    "twenty is expected to be by chance.",
}

FORMS: Mapping[str, str] = {
    "Mixture of Experts": "Mixture[- ]of[- ]Experts|MoE",
    "first choice": "first choices?|goes to first|takes first",
    "top k": r"top[- ](?:k|\d+)",
    "top p": r"top[- ]p",
    "push": "push(?:es)?",
    "entropy": "entrop(?:y|ies)",
    "nats": "nats?",
    "KL": "KL",
    "mix": "mix",
    "lead": "lead",
    "co-selection": "co-selections?",
    "canonical": "canonical|raw (?:routers?|weights)",
    "ban": "ban|bans|banned",
    "silhouette": "silhouettes?",
    "draws": "draws",
    "support": "support",
    "chance": "chance",
    "trustworthiness": "trustworthiness",
    "unrelated directions": "unrelated directions?",
    "p": r"p(?=[\xa0 ][=<≤])",
    "q": r"q(?=[\xa0 ][=<≤])",
}
"""How a term is written where it isn't the word itself, or that with an s."""

BASIC = ("token", "layer", "expert", "router", "routing", "prompt")
"""The words of every sentence; what stands in small print does without their mark."""


def slug(term: str) -> str:
    """A term as the address of its mark holds it."""
    return "term-" + re.sub(r"[^a-z0-9]+", "-", term.lower())


def definition(term: str) -> str:
    """What a term means, as Markdown with the term in bold.

    Raises:
        KeyError: the glossary has no such term.
    """
    return f"**{_named(term)}.** {TERMS[term]}"


def hover(*terms: str) -> str:
    """The meanings of some terms, one below the other, for the help of a control.

    Raises:
        KeyError: the glossary has no such term.
    """
    return "\n\n".join(definition(term) for term in terms)


def help_of(said: str | None, *labels: str) -> str | None:
    """The help of a control: what is said of it, then the meanings of its own words.

    Args:
        said: of this control alone.
        labels: its label, and what it offers.
    """
    parts = [said] if said else []
    parts += [definition(term) for term in used_in(" | ".join(labels))]
    return "\n\n".join(parts) or None


def marked(text: str, *, skip: Iterable[str] = ()) -> str:
    """Markdown in which the first use of each term is a link to its meaning, "#term-layer".

    Args:
        text: Markdown; code, links, icons and what stands in quotation marks stay as they are.
        skip: terms that get no mark.
    """
    left_out = set(skip)
    # From the end, so that what comes before stays in its place.
    for term, use in reversed(_uses(text).items()):
        if term not in left_out:
            text = f"{text[: use.start()]}[{use[0]}](#{slug(term)}){text[use.end() :]}"
    return text


def unmarked(text: str) -> str:
    """A text without the marks that `marked` made."""
    return re.sub(r"\[([^\]]*)\]\(#term-[a-z0-9-]+\)", r"\1", text)


def used_in(text: str, *, skip: tuple[str, ...] = ()) -> list[str]:
    """The terms that a text uses, in the glossary's order.

    Args:
        text: as it is shown; words that are set as code don't count.
        skip: terms that its readers know.
    """
    uses = _uses(text)
    return [term for term in TERMS if term in uses and term not in skip]


def notes() -> dict[str, tuple[str, str]]:
    """Each term as it is named, and its meaning, by the address of its marks."""
    return {slug(term): (_named(term), meaning) for term, meaning in TERMS.items()}


def _named(term: str) -> str:
    return term if len(term) == 1 or term == "t-SNE" else f"{term[0].upper()}{term[1:]}"


def _spelt(term: str) -> str:
    exact = term.isupper() or len(term) == 1
    return f"(?{'' if exact else 'i'}:{FORMS.get(term, f'{re.escape(term)}s?')})"


# Longer terms come first: "norm scale" is no "norm".
_TERMS = sorted(TERMS, key=len, reverse=True)
# What a mark must not reach into: code, mathematics, links, icons, words of somebody's text.
_WHOLE = (
    r"`[^`]*`|\$[^$\n]+\$|!?\[[^\]]*\]\([^)]*\)|:[a-z_]+/[a-z_0-9]+:|“[^”]*”|https?://\S+|<[^>]*>"
)
_USES = re.compile(
    f"{_WHOLE}|"
    + r"(?<![\w·\\-])(?:"
    + "|".join(f"(?P<t{i}>{_spelt(term)})" for i, term in enumerate(_TERMS))
    + r")(?![\w·]|-\w)"
)


def _uses(text: str) -> dict[str, re.Match[str]]:
    """The first use of each term, outside of what is no prose and of longer terms."""
    uses: dict[str, re.Match[str]] = {}
    for found in _USES.finditer(text):
        if found.lastgroup:
            uses.setdefault(_TERMS[int(found.lastgroup[1:])], found)
    return uses
