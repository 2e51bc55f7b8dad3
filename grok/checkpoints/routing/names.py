"""Where published Mixture-of-Experts models keep their routers: names of tensors.

Routers are stored as [experts, d_model]. A layer without experts has none, and keeps its
number all the same. What a family does beyond its names is in `grok.checkpoints.routing.settings`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from grok.errors import CheckpointError, plain

CORRECTION = "e_score_correction_bias"


@dataclass(frozen=True)
class Layout:
    """One way to name router tensors.

    Attributes:
      id: for messages.
      families: models known to use it.
      router: what follows the layer's number in a router's name; what follows it with
        "bias" for "weight" is added to the logits.
      corrections: what may be added to the gates while experts are chosen, and to nothing
        else; the first that is there.
    """

    id: str
    families: str
    router: str
    corrections: tuple[str, ...] = ()

    @property
    def bias(self) -> str:
        """What follows the layer's number in the name of the logits' bias."""
        return self.router.removesuffix("weight") + "bias"


LAYOUTS = (
    Layout(
        "block_sparse_moe",
        "Mixtral, Grok-2, Phi-3.5-MoE",
        "block_sparse_moe.gate.weight",
        (f"block_sparse_moe.{CORRECTION}", f"block_sparse_moe.gate.{CORRECTION}"),
    ),
    Layout("block_sparse_moe.router", "GraniteMoe", "block_sparse_moe.router.layer.weight"),
    Layout(
        "mlp.gate",
        "Qwen-MoE, OLMoE, DeepSeek",
        "mlp.gate.weight",
        (f"mlp.gate.{CORRECTION}", f"mlp.moe_statics.{CORRECTION}"),
    ),
    Layout("mlp.router", "gpt-oss", "mlp.router.weight"),
    Layout("ffn.router", "DBRX", "ffn.router.layer.weight"),
    Layout("feed_forward.router", "Llama-4, Jamba", "feed_forward.router.weight"),
)
_LAYER = re.compile(
    r"(?P<prefix>(?:[\w.]*\.)?(?:layers|blocks)\.)(?P<layer>[0-9]{1,4})\.(?P<rest>.+)", re.ASCII
)
# Heads that predict further tokens have routers of their own, and are no layers of the model.
_NO_LAYERS = ("mtp",)
# DeepSeek-V3 and GLM-4.5 number theirs on from the last layer. No ordinary layer has such tensors.
_FURTHER_TOKENS = ("eh_proj", "embed_tokens", "enorm", "hnorm", "shared_head")


def layers_prefix(name: str) -> str | None:
    """What a tensor's name has before its layer's number; None outside of layers."""
    match = _LAYER.fullmatch(name)
    return None if match is None else match["prefix"]


def place_of(name: str) -> str | None:
    """What the names of all tensors of a tensor's layer begin with; None outside of layers."""
    match = _LAYER.fullmatch(name)
    return None if match is None else name[: match.start("rest")]


def check_n_layers(where: str, n_layers: int, names: Iterable[str], prefix: str) -> None:
    """Refuses a number of layers that leaves out a layer of the model, or counts a head as one.

    Args:
      where: the config that says the number, for the message.
      n_layers: that is said.
      names: of the tensors in the files.
      prefix: of those in layers, up to a layer's number.

    Raises:
      CheckpointError: a layer from `n_layers` on is no head that predicts further tokens, or one
        below is.
    """
    first: dict[int, str] = {}  # a tensor of each layer
    heads: dict[int, str] = {}  # and one that only heads have
    for name in names:
        match = _LAYER.fullmatch(name)
        if match is not None and match["prefix"] == prefix:
            layer = int(match["layer"])
            first.setdefault(layer, name)
            if match["rest"].split(".")[0] in _FURTHER_TOKENS:
                heads.setdefault(layer, name)
    left_out = [layer for layer in first if layer >= n_layers and layer not in heads]
    counted = [layer for layer in heads if layer < n_layers]
    if left_out:
        expected = f"{max(left_out) + 1}, for the files hold {plain(first[max(left_out)], 80)}"
    elif counted:
        name = plain(heads[min(counted)], 80)
        expected = f"{min(counted)}, for {name} is of a head that predicts further tokens"
    else:
        return
    raise CheckpointError(
        f"{where}: num_hidden_layers: found {n_layers}; expected {expected}. Get the model's own "
        "config.json."
    )


@dataclass(frozen=True)
class LayerNames:
    """The router of one layer and what stands beside it.

    Attributes:
      router: its weight.
      bias: added to its logits; None for none.
      correction: added to its gates while experts are chosen; None for none.
      place: what the names of all tensors of the layer begin with.
    """

    router: str
    bias: str | None
    correction: str | None
    place: str


def find_routers(names: Iterable[str]) -> tuple[Layout, dict[int, LayerNames]]:
    """The layout of a model and the router tensors of its layers, in the order of their numbers.

    Raises:
      CheckpointError: no layout fits, several do, or the names have several prefixes
        (two models in one place).
    """
    names = set(names)
    found: dict[tuple[str, str], dict[int, str]] = {}
    by_router = {layout.router: layout for layout in LAYOUTS}
    for name in names:
        match = _LAYER.fullmatch(name)
        if match is None or match["rest"] not in by_router:
            continue
        if any(part in _NO_LAYERS for part in match["prefix"].split(".")):
            continue
        layers = found.setdefault((match["prefix"], match["rest"]), {})
        layer = int(match["layer"])
        if layer in layers:
            both = " and ".join(f"'{plain(n, 80)}'" for n in sorted((layers[layer], name)))
            raise CheckpointError(
                f"{both} are the router of one layer; expected one. Check where the files come "
                "from."
            )
        layers[layer] = name
    if not found:
        known = "; ".join(f"{layout.families}: …{layout.router}" for layout in LAYOUTS)
        raise CheckpointError(
            f"None of {len(names)} tensors is a router of a known layout ({known}). Expected a "
            "Mixture-of-Experts model in one of them."
        )
    if len(found) > 1:
        which = "; ".join(f"{plain(a, 60)}N.{b}" for a, b in sorted(found)[:4])
        raise CheckpointError(
            f"Routers are named in {len(found)} ways: {which}. Expected one model; keep the files "
            "of one in the folder."
        )
    ((prefix, router), layers), *_ = found.items()
    layout = by_router[router]

    def beside(layer: int) -> LayerNames:
        place = layers[layer].removesuffix(router)
        corrections = (place + ending for ending in layout.corrections)
        return LayerNames(
            router=layers[layer],
            bias=place + layout.bias if place + layout.bias in names else None,
            correction=next((name for name in corrections if name in names), None),
            place=place,
        )

    return layout, {layer: beside(layer) for layer in sorted(layers)}
