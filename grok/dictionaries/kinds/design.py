"""What a dictionary is: the sites it reads and writes, its features, and when one is active.

Every kind is a number of groups of F features. A group reads the sum of some sites through an
encoder each, and writes to some sites through a decoder each:

- `sae`: a group for each site, which reads and writes it.
- `transcoder`: a group for each layer, which reads one site and writes another.
- `clt` (cross-layer transcoder): as a transcoder, and a group writes to all later layers as well.
- `crosscoder`: one group, which reads and writes all sites.
- `expert_transcoder`: as a transcoder, its features shared out among the experts of the layer;
  those of an expert are active only where the router chose it.

No JAX here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, TypeVar

from grok.errors import ConfigError
from grok.interventions.sites import AXES, LAYER_SITES, HookPoint

KINDS = ("sae", "transcoder", "clt", "crosscoder", "expert_transcoder")
FUNCTIONS = ("relu", "jumprelu", "topk", "batch_topk")
MOST_FEATURES = 2**22
MOST_LAYERS = 1000
T = TypeVar("T")


class Group(NamedTuple):
    """Features that share their sites. reads, writes: indexes into a design's points."""

    reads: tuple[int, ...]
    writes: tuple[int, ...]


@dataclass(frozen=True)
class Design:
    """The sites and the size of a dictionary.

    Attributes:
        kind: one of `KINDS`.
        layers: of the sites, ascending.
        reads: names of sites within a layer, such as "router.input".
        writes: the same; those that are read where empty.
        features: F of each group.
        d_model: width of the sites, D.
        skip: whether what is read goes to the output through a matrix as well.
        n_experts: E of a layer, for an `expert_transcoder`; else 0.

    Raises:
        ConfigError: there is no such dictionary.
    """

    kind: str
    layers: tuple[int, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    features: int
    d_model: int
    skip: bool = False
    n_experts: int = 0

    def __post_init__(self) -> None:
        def need(fine: bool, what: str) -> None:
            if not fine:
                raise ConfigError(f"dictionary: {what}")

        need(self.kind in KINDS, f"kind {self.kind!r:.40}; expected one of {', '.join(KINDS)}.")
        need(
            bool(self.layers) and list(self.layers) == sorted(set(self.layers)),
            f"layers {self.layers!s:.60}; expected different ones, ascending.",
        )
        need(
            self.layers[0] >= 0 and self.layers[-1] < MOST_LAYERS,
            f"layers from {self.layers[0]} to {self.layers[-1]}; expected 0 to {MOST_LAYERS - 1}.",
        )
        for site in (*self.reads, *self.writes):
            need(
                site in LAYER_SITES and AXES[site] == ("d_model",),
                f"site {site!r:.40} has no values of width d_model in a layer.",
            )
        own = self.kind in ("sae", "crosscoder")
        need(
            self.writes == self.reads if own else len(self.reads) == len(self.writes) == 1,
            f"reads {self.reads} and writes {self.writes}; "
            + ("a dictionary of this kind writes what it reads." if own else "expected one each."),
        )
        need(len(set(self.reads)) == len(self.reads) > 0, f"reads {self.reads}; expected sites.")
        need(
            0 < self.features <= MOST_FEATURES,
            f"{self.features} features; expected 1 to {MOST_FEATURES:,}.",
        )
        need(self.d_model > 0, f"d_model is {self.d_model}.")
        need(
            not self.skip or self.kind == "transcoder",
            "skip is for a transcoder alone: another kind would copy its input.",
        )
        expert = self.kind == "expert_transcoder"
        need(
            (self.n_experts > 0 and self.features % self.n_experts == 0)
            if expert
            else self.n_experts == 0,
            f"{self.features} features for {self.n_experts} experts; expected a multiple for an "
            "expert_transcoder, and no experts for other kinds.",
        )

    @property
    def sources(self) -> tuple[HookPoint, ...]:
        """The points that are read, S of them, layer by layer."""
        return tuple(HookPoint(layer, site) for layer in self.layers for site in self.reads)

    @property
    def targets(self) -> tuple[HookPoint, ...]:
        """The points that are written, M of them."""
        return tuple(HookPoint(layer, site) for layer in self.layers for site in self.writes)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of features, G of them."""
        n = len(self.sources)
        if self.kind == "crosscoder":
            return (Group(tuple(range(n)), tuple(range(n))),)
        if self.kind == "clt":
            return tuple(Group((i,), tuple(range(i, n))) for i in range(n))
        return tuple(Group((i,), (i,)) for i in range(n))

    @property
    def n_parameters(self) -> int:
        """Values in encoders, decoders, biases and skip."""
        d, f = self.d_model, self.features
        blocks = sum(len(group.reads) + len(group.writes) for group in self.groups)
        n = blocks * d * f + len(self.groups) * f + len(self.targets) * d
        return n + (len(self.targets) * d * d if self.skip else 0)


@dataclass(frozen=True)
class Activation:
    """When a feature is active, and how strongly.

    Attributes:
        function: `relu`; `jumprelu`, a learned threshold for each feature; `topk`, the `k` largest
            of a token; `batch_topk`, the k a token largest of a whole batch while training, and
            a threshold afterwards.
        k: active features of a token and group.
        pooled: whether groups share their budget of k each.
        gate_by_norm: compare pre-activations times the norm of the feature's decoders.
        threshold: where `jumprelu` starts.
        bandwidth: ε of its gradients, in pre-activations.

    Raises:
        ConfigError: a value outside its range.
    """

    function: str = "batch_topk"
    k: int = 16
    pooled: bool = False
    gate_by_norm: bool = False
    threshold: float = 0.03
    bandwidth: float = 1.0

    def __post_init__(self) -> None:
        if self.function not in FUNCTIONS:
            raise ConfigError(
                f"activation: function {self.function!r:.40}; expected one of "
                f"{', '.join(FUNCTIONS)}."
            )
        if self.k < 1 or self.threshold < 0 or self.bandwidth <= 0:
            raise ConfigError(
                f"activation: k {self.k}, threshold {self.threshold}, bandwidth {self.bandwidth}; "
                "expected k of at least 1, a threshold of at least 0 and a positive bandwidth."
            )

    @property
    def selects(self) -> bool:
        """True where the largest of a token or a batch are kept."""
        return self.function in ("topk", "batch_topk")


def design_text(design: Design, activation: Activation) -> dict[str, Any]:
    """Both as values that JSON holds."""
    return {"design": asdict(design), "activation": asdict(activation)}


def from_values(kind: type[T], values: Mapping[str, Any], part: str) -> T:
    """A frozen dataclass from values of TOML or JSON; lists become tuples.

    Raises:
        ConfigError: an unknown or missing key, or a value of another type.
    """
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ConfigError(f"{part}: unknown key {name!r:.60}; known are {', '.join(known)}.")
    given = {}
    for name, value in values.items():
        given[name] = _typed(value, str(known[name].type), f"{part}.{name}")
    try:
        return kind(**given)
    except TypeError as error:
        raise ConfigError(f"{part}: {error}.") from error


def _typed(value: Any, kind: str, where: str) -> Any:
    """A value of the type that a field says: bool, int, float, str or a tuple of one of them."""
    if kind.startswith("tuple["):
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} is {value!r:.60}; expected a list.")
        inner = kind[len("tuple[") :].split(",")[0]
        return tuple(_typed(one, inner, where) for one in value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fine = {
        "bool": isinstance(value, bool),
        "int": number and not isinstance(value, float),
        "float": number and abs(value) < float("inf"),
        "str": isinstance(value, str),
    }
    if not fine[kind]:
        raise ConfigError(f"{where} is {value!r:.60}; expected {kind}.")
    return float(value) if kind == "float" else value
