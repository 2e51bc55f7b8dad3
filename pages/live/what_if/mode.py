"""The mode "What if": bans and forced experts, one or all, and values of another prompt.

Each question has a file of its own: one_expert.py, every_expert.py, patching.py.
"""

from __future__ import annotations

import streamlit as st

from lens.errors import LensError
from lens.finding import Finding
from pages.access.messages import told
from pages.live.session.mode_context import ModeContext
from pages.live.what_if import every_expert, one_expert, patching
from pages.shell import links

INVITATION = (
    "Take each expert away in turn to see which ones a text needs; then look at one closely."
)
HOW_TO_READ = """
An intervention changes one thing in the model's run of a text; everything after it is computed
anew.

- **Ban**: the expert's router logit becomes −∞, so that it is never chosen. The next in line takes
  its place, and where gates are probabilities the others' grow by 1 / (1 − p).
- **Give to every token**: the expert replaces each token's last choice, with the gate that the
  router's rule gives it. Tokens that use it already stay as they are.
- **Change**: KL(as it is ‖ changed) of the next-token distributions, in nats: how much more
  surprised somebody is, on average, who expects the changed one and meets the model as it is.
- **Beside chance**: the same intervention on the layer's other experts. With E experts in a layer
  the smallest p is 1 / E, so that one text and one layer show an order rather than proof. An expert
  that no token uses changes next to nothing when banned: what is left is rounding.
- **The same tokens**: every token that uses the banned expert loses another of its experts instead.
  So use is alike; the share of the mix may not be, and is said. Null: signs of blocks of
  neighbouring tokens flipped, the longer the more alike neighbours are; where fewer than six
  stretches are left that have little to do with each other, nothing is told.
- **Effect and use**: Spearman's correlation within layers of the effects with the experts' mean
  shares of the tokens' mixes; the null relabels the experts of each layer.
- **Patch**: two prompts of as many tokens. The corrupt one is run with one value of the clean
  one's run put in, place by place. Recovered: (patched − corrupt) / (clean − corrupt) of the
  measure; 1 is all of the difference, 0 nothing, and it may go beyond both.
  Control: the clean run's value of another token, drawn at random, put in the same place. Where the
  control recovers as much, it is not this token's value that does it. Next tokens left empty are
  the likeliest ones.
- **Places**: residual stream before a layer, what attention adds, what the experts add (both before
  their norms), the router's logits.

What holds for one text need not hold for another. Numbers of experts carry no meaning across
layers.
"""
QUESTIONS = {"every": "Every expert", "one": "One expert", "patch": "Patch"}
SHOW = {"every": every_expert.show, "one": one_expert.show, "patch": patching.show}


def show(context: ModeContext) -> None:
    """The mode: one of three questions, each with its own text and result."""
    if context.choice is None:
        context.heading(INVITATION, HOW_TO_READ)
        return
    finding: Finding | None = None
    with context.bar:
        question = links.segments(
            "question",
            "Question",
            list(QUESTIONS),
            "every",
            shown=QUESTIONS.__getitem__,
            collapsed=True,
        )
    try:
        finding = SHOW[question](context, context.choice)
    except LensError as error:
        st.info(told(error))
    context.heading(INVITATION if finding is None else [finding], HOW_TO_READ)
