"""The sites in the model where values are read and changed, by name. No JAX needed.

Within a layer, in the order in which they are computed (B sequences, T tokens, D d_model,
E experts, K experts a token; "act" is the activation dtype):

- `resid_pre` [B, T, D] float32: the residual stream that enters the layer.
- `attn.output` [B, T, D] act: what attention computed, before a norm of its own where the family
  has one.
- `attn.normed` [B, T, D] float32: what attention adds to the stream, after a norm of its own
  where the family has one.
- `resid_mid` [B, T, D] float32: the stream, rounded to act where the family does so, plus
  `attn.normed`.
- `router.input` [B, T, D] act: the normed stream as the router reads it. The experts read
  the same values; a change here reaches the router alone. Change `resid_mid` for both.
- `router.logits` [B, T, E] float32: before the softmax over all experts.
- `router.experts` [B, T, K] int32: the chosen ones, largest gate first. A change keeps the
  probabilities, and the gates become those of the experts put there.
- `router.gates` [B, T, K] float32: probabilities of the chosen experts.
- `moe.contribution` [B, T, K, D] float32: each chosen expert's output times its gate.
- `moe.output` [B, T, D] act: their sum, before a norm of its own where the family has one.
- `moe.shared` [B, T, D] act: what the expert that every token passes through adds to that sum,
  where the family has one.
- `moe.normed` [B, T, D] float32: what the experts add to the stream, after a norm of their own
  and with shared experts where the family has them.
- `resid_post` [B, T, D] float32: the stream that leaves the layer: `resid_mid`, rounded as above,
  plus `moe.normed`.

Outside the layers: `embed` [B, T, D] float32 before the first, `norm.output` [B, T, D] act
and `logits` [B, T, V] act after the last.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from grok.config import ModelConfig
from grok.errors import SiteError

EMBED, NORM, LOGITS = "embed", "norm.output", "logits"
LAYER_SITES = (
    "resid_pre",
    "attn.output",
    "attn.normed",
    "resid_mid",
    "router.input",
    "router.logits",
    "router.experts",
    "router.gates",
    "moe.contribution",
    "moe.output",
    "moe.shared",
    "moe.normed",
    "resid_post",
)
MODEL_SITES = (EMBED, NORM, LOGITS)
# Sites that a layer without experts lacks.
MIXTURE_SITES = (
    "router.input",
    "router.logits",
    "router.experts",
    "router.gates",
    "moe.contribution",
    "moe.output",
    "moe.shared",
)
WITHOUT_SHARED = tuple(site for site in LAYER_SITES if site != "moe.shared")
"""Sites of a layer whose mixture has no expert that every token passes through."""

# The axes of each site after batch and tokens.
AXES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys((*LAYER_SITES, EMBED, NORM), ("d_model",)),
    "router.logits": ("n_experts",),
    "router.experts": ("top_k",),
    "router.gates": ("top_k",),
    "moe.contribution": ("top_k", "d_model"),
    LOGITS: ("vocab_size",),
}
FLOAT32 = frozenset(
    ("resid_pre", "resid_mid", "resid_post", EMBED)
    + ("attn.normed", "router.logits", "router.gates", "moe.contribution", "moe.normed")
)


class Hook(Protocol):
    """A function that a layer calls at each of its sites; it returns the value to go on with.

    `context` holds what an edit may ask for beside the value.
    """

    def __call__(self, site: str, value: Any, **context: Any) -> Any: ...

    def wants(self, site: str) -> bool:
        """True where the site is read or changed; one that costs extra is computed only then."""
        ...


class NoHook:
    """The hook of a plain run: no site is read or changed."""

    def __call__(self, site: str, value: Any, **context: Any) -> Any:
        return value

    def wants(self, site: str) -> bool:
        return False


NO_HOOK = NoHook()


class HookPoint(NamedTuple):
    """One site of one layer (layer -1 before the first, n_layers after the last)."""

    layer: int
    site: str

    @property
    def order(self) -> tuple[int, int]:
        """A key that sorts hook points in the order in which they are computed."""
        sites = LAYER_SITES if self.site in LAYER_SITES else MODEL_SITES
        return self.layer, sites.index(self.site)

    def __str__(self) -> str:
        return f"layers[{self.layer}].{self.site}" if self.site in LAYER_SITES else self.site


class Site(NamedTuple):
    """A site as `Model.sites` lists it. shape: of one sequence of the tokens asked about."""

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str


def known(name: str, among: Iterable[str] = (*LAYER_SITES, *MODEL_SITES)) -> str:
    """The name, if there is such a site.

    Raises:
        SiteError: there is none; names the nearest.
    """
    among = tuple(among)
    if name in among:
        return name
    near = difflib.get_close_matches(name, among, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise SiteError(f"There is no site {name!r:.60}.{hint} Sites: {', '.join(among)}.")


def site_names(sites: str | Iterable[str]) -> tuple[str, ...]:
    """Names of sites, given as one string or as several.

    >>> site_names("resid_post"), site_names(["resid_pre", "resid_post"])
    (('resid_post',), ('resid_pre', 'resid_post'))
    """
    return (sites,) if isinstance(sites, str) else tuple(sites)


def indexes(which: int | Iterable[int]) -> tuple[int, ...]:
    """Layers or positions, given as one number or as several.

    >>> indexes(3), indexes(range(2))
    ((3,), (0, 1))
    """
    if isinstance(which, (int, np.integer)) or (isinstance(which, np.ndarray) and not which.ndim):
        return (int(which),)
    return tuple(int(one) for one in which)


_NAME = re.compile(r"layers\[(\d{1,4})\]\.(.+)")


def parse(name: str, n_layers: int) -> HookPoint:
    """The hook point that a full name means, such as "layers[3].router.logits" or "logits".

    Raises:
        SiteError: no such site or layer.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        return model_point(known(name, MODEL_SITES), n_layers)
    layer = int(match.group(1))
    if layer >= n_layers:
        raise SiteError(f"{name}: this model has layers 0 to {n_layers - 1}.")
    return HookPoint(layer, known(match.group(2), LAYER_SITES))


def check_mixture(point: HookPoint, config: ModelConfig) -> None:
    """Refuses a site of a mixture in a layer that is none.

    Raises:
        SiteError: the layer has no experts; the text names those that do.
    """
    if point.site in MIXTURE_SITES and point.layer not in config.moe_layers:
        raise SiteError(
            f"{point}: layer {point.layer} of this model has no experts; those that do are "
            f"{', '.join(map(str, config.moe_layers))}."
        )


def model_point(site: str, n_layers: int) -> HookPoint:
    """The hook point of a site outside the layers."""
    return HookPoint(-1 if site == EMBED else n_layers, site)


def list_sites(
    config: ModelConfig,
    dtype: str,
    n_tokens: int = 1,
    layer_sites: Sequence[str] = LAYER_SITES,
) -> list[Site]:
    """Every site of every layer, in the order in which they are computed.

    Args:
        config: of the model.
        dtype: of its activations.
        n_tokens: of the sequence that the shapes are for.
        layer_sites: those that a layer of the model has.
    """
    last = config.n_layers
    layers = [
        HookPoint(i, name)
        for i in range(last)
        for name in layer_sites
        if name not in MIXTURE_SITES or i in config.moe_layers
    ]
    points = [HookPoint(-1, EMBED), *layers, HookPoint(last, NORM), HookPoint(last, LOGITS)]
    return [_site(config, dtype, n_tokens, point) for point in points]


def _site(config: ModelConfig, dtype: str, n_tokens: int, point: HookPoint) -> Site:
    axes, sizes = AXES[point.site], _axis_sizes(config)
    if point.site == "router.experts":
        dtype = "int32"
    elif point.site in FLOAT32:
        dtype = "float32"
    shape = (n_tokens, *(sizes[axis] for axis in axes))
    return Site(str(point), ("token", *axes), shape, dtype)


def _axis_sizes(config: ModelConfig) -> Mapping[str, int]:
    return {
        "d_model": config.d_model,
        "n_experts": config.n_experts,
        "top_k": config.top_k,
        "vocab_size": config.vocab_size,
    }


def row_bytes(config: ModelConfig, points: Iterable[HookPoint]) -> int:
    """Bytes of the values of some hook points that one token row keeps until its pass is over."""
    sizes = _axis_sizes(config)
    return sum(4 * math.prod(sizes[axis] for axis in AXES[point.site]) for point in points)
