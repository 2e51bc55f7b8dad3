"""The container that a mode of the Live routing page draws in, its routers and its model."""

from __future__ import annotations

from dataclasses import dataclass

from streamlit.delta_generator import DeltaGenerator

from lens.routers.router_set import RouterSet
from pages.hosting import tabs
from pages.live.session import shared_models, sharing
from pages.shell import layout
from pages.shell.finding_block import Headline

HOW_TO_READ = """
Each layer's router scores every expert for every token; the K best are used. Most routers make
probabilities `p = softmax(z)` over all experts of their logits z; some give each expert a score of
its own, which do not sum to 1, and some add a correction for the choice alone. Gates are p of the
chosen as they are, or renormalised, or scaled. The chosen cell says which of it this model does.

- **Margin** `z_K − z_(K+1)` in logits, or of the scores that decide: how close the choice of
  experts was. Near 0 another expert would have been taken by a small change.
- **Lead** `z_1 − z_2`: of logits, it decides the mix and not the choice. The **mix** is each
  chosen expert's gate over the sum of them.
- **Entropy** of p, or of the scores' shares, in nats: 0 certain, ln E when all experts are alike.
- **Load**: share of (token, slot) assignments. The band holds 95 % of the shares that even use
  gives by chance with as many tokens; whiskers are Clopper–Pearson intervals of the share itself,
  which hold together for a layer (Bonferroni). Neighbours choose alike: T tokens count as T / τ
  independent ones, τ = 1 + 2 Σ ρ over the correlations ρ of choices 1, 2, … tokens apart.
- **Effective experts** exp(H) of the load: between K and E. Even use of few tokens lies below E;
  the band says how far, for as many tokens as the text's are worth.
- **Lift** of a pair: tokens that chose both, over what the loads explain: the least committal
  choice of K different experts with these loads, P(S) ∝ Π w_e. 1 is chance. p from the first three
  moments of the count given the loads, for as many tokens as the text's are worth.
- **Repeats**: chance is 1 / E for the first choice, and 1 − C(E − K, K) / C(E, K) for any. The band
  is of the same tokens in random order.
- **Information** I = Σ p(v, e) ln [p(v, e) / (p(v) p(e))] in nats, over the assignments: v the
  token id, or a bin of positions. Counts of few tokens make it too large, so read what exceeds the
  null's mean. For ids each stretch of about 16 tokens is turned round by itself, so that topic and
  place do not count; for positions of one text tokens are shuffled. As a share of
  H(expert) − ln K, what a label that fixes the choices has.
- **Margins, null**: near-normal logits with the layer's measured mean, covariance, and covariance
  of tokens any distance apart (random phases); compared is the median over the spread √(mean
  variance).
- **Predicted load** P(selected) / K with normal logits, from that mean and covariance, and from the
  weights alone; the null relabels the experts of each layer.
- **Labels** (many traces): load under a label over the load in all traces. The null permutes the
  labels over whole traces, for tokens of one text are not independent.

p-values of many layers, pairs or experts are adjusted by Benjamini and Hochberg (q). But for
labels, all speak of this text, not of texts in general.

Numbers of experts carry no meaning across layers. The first tokens of a text behave unlike others;
compare texts at the same positions before you read meaning into a difference.
"""


def _kept_and_shared() -> None:
    """What the link opens, and what is kept of the tab."""
    sharing.controls()
    tabs.controls()


@dataclass(frozen=True)
class ModeContext:
    """Container, routers and model that a mode of the page is given.

    Attributes:
        head: container at the top, for the heading.
        bar: beside the modes, for what there is to choose of this one first.
        routers: those of the data source, which need not be the model's that runs prompts.
        choice: the model that runs prompts; None where none can.
    """

    head: DeltaGenerator
    bar: DeltaGenerator
    routers: RouterSet
    choice: shared_models.ModelChoice | None

    def heading(self, headline: Headline, how_to_read: str = HOW_TO_READ) -> None:
        """The page's name and what the mode has found; call it once, when that is known."""
        with self.head:
            layout.heading("Live routing", headline, how_to_read, self.routers)
        layout.share(self.routers, _kept_and_shared)
