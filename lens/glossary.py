"""The field's words, each in a sentence or two: pages show them on hover, the docs as a page."""

from __future__ import annotations

import re

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
    "logit": "A score before it is made a probability. The router gives one to every expert, the "
    "end of the model one to every possible next token.",
    "gate": "The share with which an expert's output counts: the softmax of the router's logits.",
    "top k": "How many experts a token uses in a layer: those with the k largest logits.",
    "margin": "How clear a choice was: the logit of the last expert chosen less that of the first "
    "one left out. Near 0 a small push would change the choice.",
    "load": "The share of a layer's assignments that an expert gets. The even share is one "
    "divided by the number of experts.",
    "breadth": "How likely an expert is to be chosen if nothing is known of the token: its share "
    "when all directions of the residual stream are equally likely.",
    "entropy": "How undecided a choice is, in nats: 0 when one outcome is certain, largest when "
    "all are equally likely.",
    "nats": "The unit of information with natural logarithms: 1 nat is 1.44 bits. Being told "
    "which of 8 equally likely experts is chosen is worth 2.08 nats.",
    "KL": "Kullback–Leibler divergence: how far one set of probabilities is from another, in "
    "nats. 0 when they are equal.",
    "cosine": "How alike two directions are: 1 the same, 0 unrelated, −1 opposite.",
    "CKA": "Centred kernel alignment: how alike two layers' routers are, whichever way their "
    "experts are numbered. 1 the same up to rotation and scale, 0 nothing in common.",
    "canonical": "The router as it acts: the norm before it folded in, and what all experts share "
    "taken off, because softmax cannot see that. The raw weights are as stored.",
    "norm scale": "The factors by which the norm before a router stretches each coordinate of "
    "what the router reads.",
    "chain": "An expert followed from layer to layer by its most alike partner in the next.",
    "ban": "An intervention: the expert cannot be chosen, and the others share its part.",
    "chance": "What the same number is when there is nothing to find. Every effect stands beside "
    "it.",
    "null": "Data drawn so that what is asked about is lost and all else is kept. A finding has "
    "to beat it.",
    "p": "How often chance alone gives a number at least as large. Small means surprising.",
    "q": "p when many things are asked at once: of all findings with q at most 0.05, one in "
    "twenty is expected to be by chance.",
}


def definition(term: str) -> str:
    """What a term means, as Markdown with the term in bold.

    Raises:
        KeyError: the glossary has no such term.
    """
    name = term if len(term) == 1 else f"{term[0].upper()}{term[1:]}"
    return f"**{name}.** {TERMS[term]}"


def hover(*terms: str) -> str:
    """The meanings of some terms, one below the other, for the help of a control.

    Raises:
        KeyError: the glossary has no such term.
    """
    return "\n\n".join(definition(term) for term in terms)


def used_in(text: str, *, skip: tuple[str, ...] = ()) -> list[str]:
    """The terms that a text uses, in the glossary's order.

    Args:
        text: as it is shown; words that are set as code don't count.
        skip: terms that its readers know.
    """
    plain = re.sub(r"`[^`]*`", " ", text)
    return [
        term
        for term in TERMS
        if term not in skip
        and re.search(
            rf"(?<![\w·]){re.escape(term)}s?(?![\w·])",
            plain,
            0 if len(term) == 1 or term.isupper() else re.IGNORECASE,
        )
    ]
