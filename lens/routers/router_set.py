"""The router set: what every analysis starts from, and its `.npz` file.

Axes: layer (L), d_model (d, the residual stream), expert (E). The layer axis is
counted from 0 in the order of the model; `layer_ids` holds the numbers that the
model itself gives these layers, and labels show those: L12·E3.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from grok.errors import plain
from lens.errors import LensError
from lens.recipe.steps import remembered
from lens.storage.npz import Npz, Source, open_npz
from lens.storage.whole_file import READABLE, whole_file

VIEWS = ("canonical", "raw")
SCORES = ("softmax", "sigmoid")
FORMAT_VERSION = 1
MAX_LAYERS = 512
MAX_EXPERTS = 1024
MAX_SOURCE = 500  # characters
ADVICE = "Extract the routers again with `python -m lens.extract`."


def content_sha256(
    routers: Float[np.ndarray, "layer d_model expert"],
    norm_scales: Float[np.ndarray, "layer d_model"] | None,
) -> str:
    """SHA-256 of the weights that decide the routing, as 64 hexadecimal digits.

    The bytes hashed are, for `routers` and then for `norm_scales` when present:
    the ASCII text "NAME|SHAPE|DTYPE|", with the shape's lengths joined by commas
    and the dtype "float32", as in "routers|64,6144,8|float32|"; then the values
    as little-endian float32 in C order.
    """
    digest = hashlib.sha256()
    for name, array in (("routers", routers), ("norm_scales", norm_scales)):
        if array is None:
            continue
        values = np.ascontiguousarray(array, dtype="<f4")
        digest.update(f"{name}|{','.join(map(str, values.shape))}|{values.dtype.name}|".encode())
        digest.update(values.data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class RouterSet:
    """The routers of one model, checked, read-only, with their identity.

    Attributes:
        routers: the weights as the checkpoint has them; a token's router logits
            are its normalised residual, scaled by `norm_scales`, times these.
        norm_scales: scale of the RMSNorm that feeds each router, None if unknown.
        layer_ids: the model's own numbers of these layers (default 0, 1, …).
        top_k: experts a token.
        top_k_known: whether somebody said so; False where 2 stands in for what a file lacks.
        score: what turns logits into gates.
        biases: None for none. With softmax they are added to the logits; with sigmoid
            to the gates while experts are chosen, and to nothing else.
        source: where the weights came from, for people.

    Raises:
        LensError: shapes disagree, a value is not finite, a column has zero norm,
            two layers are the same, or a setting is out of its range.
    """

    routers: Float[np.ndarray, "layer d_model expert"]
    norm_scales: Float[np.ndarray, "layer d_model"] | None = None
    layer_ids: Int[np.ndarray, " layer"] = None  # type: ignore[assignment]  # filled in when absent
    top_k: int = 2
    score: Literal["softmax", "sigmoid"] = "softmax"
    biases: Float[np.ndarray, "layer expert"] | None = None
    source: str = "unknown"
    format_version: int = FORMAT_VERSION
    top_k_known: bool = True

    def __post_init__(self) -> None:
        routers = _numbers(self.routers, "routers", 3, "[layer, d_model, expert]")
        n_layers, d_model, n_experts = routers.shape
        if not (1 <= n_layers <= MAX_LAYERS and 2 <= n_experts <= MAX_EXPERTS and d_model >= 2):
            raise LensError(
                f"routers: the shape is {routers.shape} (layers, d_model, experts); expected 1 to "
                f"{MAX_LAYERS} layers, at least 2 dimensions and 2 to {MAX_EXPERTS} experts. "
                "Check the order of the axes."
            )
        scales = self.norm_scales
        if scales is not None:
            scales = _numbers(scales, "norm_scales", 2, "[layer, d_model]")
            _agree(scales, "norm_scales", (n_layers, d_model))
        biases = self.biases
        if biases is not None:
            biases = _numbers(biases, "biases", 2, "[layer, expert]")
            _agree(biases, "biases", (n_layers, n_experts))
        layer_ids = _layer_ids(self.layer_ids, n_layers)
        top_k = int(self.top_k)
        if not 1 <= top_k <= n_experts:
            raise LensError(
                f"top_k: found {top_k}; expected 1 to {n_experts}, the number of experts. {ADVICE}"
            )
        if self.score not in SCORES:
            raise LensError(
                f"score: found '{plain(str(self.score), 40)}'; expected 'softmax' or 'sigmoid'. "
                f"{ADVICE}"
            )
        _check_columns(routers, layer_ids)
        source = "".join(c for c in str(self.source) if c.isprintable())[:MAX_SOURCE]
        values: dict[str, Any] = {
            "routers": routers,
            "norm_scales": scales,
            "layer_ids": layer_ids,
            "top_k": top_k,
            "biases": biases,
            "source": source,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def n_layers(self) -> int:
        return self.routers.shape[0]

    @property
    def d_model(self) -> int:
        return self.routers.shape[1]

    @property
    def n_experts(self) -> int:
        return self.routers.shape[2]

    @cached_property
    def sha256(self) -> str:
        """Identity of the weights, see `content_sha256`."""
        return content_sha256(self.routers, self.norm_scales)

    @cached_property
    def key(self) -> str:
        """Hash of everything that can change a result: the weights and the settings."""
        digest = hashlib.sha256(f"{self.sha256}|{self.top_k}|{self.score}|".encode())
        digest.update(np.ascontiguousarray(self.layer_ids, dtype="<i4").data)
        if self.biases is not None:
            digest.update(b"|biases|")
            digest.update(np.ascontiguousarray(self.biases, dtype="<f4").data)
        return digest.hexdigest()

    @property
    def logit_biases(self) -> Float[np.ndarray, "layer expert"] | None:
        """The biases where they are added to logits; None for those added to sigmoids."""
        return self.biases if self.score == "softmax" else None

    def label(self, layer: int, expert: int | None = None) -> str:
        """The name shown for row `layer`, or for one of its experts: "L12" or "L12·E3"."""
        name = f"L{self.layer_ids[layer]}"
        return name if expert is None else f"{name}·E{expert}"

    def columns(self, view: str = "canonical") -> Float[np.ndarray, "layer d_model expert"]:
        """The router columns that a view compares.

        "canonical" is diag(γ)·W·(I − 11ᵀ/E): the norm's scale folded in (taken as
        1 where unknown), and the part common to all columns of a layer removed,
        since softmax cannot see it. "raw" is W as the checkpoint has it.
        """
        check_view(view)
        if view == "raw":
            return self.routers
        with np.errstate(over="ignore", invalid="ignore"):
            if self.norm_scales is None:
                folded = self.routers
            else:
                folded = self.routers * self.norm_scales[:, :, None]
            mean = folded @ np.full((self.n_experts, 1), 1 / self.n_experts, np.float32)
            return folded - mean


class Labels(list[str]):
    """Names of layers, of which it can be noted how they were made."""


@remembered
def layer_labels(routers: RouterSet) -> list[str]:
    """The names of all layers, in order."""
    return Labels(routers.label(layer) for layer in range(routers.n_layers))


@remembered
def with_top_k(routers: RouterSet, top_k: int) -> RouterSet:
    """The set of a model that sends a token to so many experts."""
    return replace(routers, top_k=top_k)


def check_view(view: str) -> str:
    """A view's name as given, or an error that lists the views there are."""
    if view not in VIEWS:
        raise LensError(f"view: found {str(view)[:40]!r}; expected one of {', '.join(VIEWS)}.")
    return view


def _numbers(array: Any, name: str, rank: int, axes: str) -> np.ndarray:
    """A read-only float32 array of the rank expected, all finite."""
    array = np.asarray(array)
    if array.dtype.kind != "f":
        raise LensError(f"{name}: the dtype is {array.dtype}; expected float32. {ADVICE}")
    if array.ndim != rank:
        raise LensError(f"{name}: the shape is {array.shape}; expected {axes}. {ADVICE}")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, dtype=np.float32).view()
    finite = np.isfinite(array)
    if not finite.all():
        at = np.argwhere(~finite)
        raise LensError(
            f"{name}: {len(at)} of {array.size} values are not finite in float32, the first at "
            f"index {tuple(int(i) for i in at[0])}; expected numbers only. {ADVICE}"
        )
    array.flags.writeable = False
    return array


def _agree(array: np.ndarray, name: str, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise LensError(f"{name}: the shape is {array.shape}; the routers need {shape}. {ADVICE}")


def _layer_ids(layer_ids: Any, n_layers: int) -> np.ndarray:
    if layer_ids is None:
        ids = np.arange(n_layers, dtype=np.int32)
    else:
        ids = np.asarray(layer_ids)
        if ids.dtype.kind not in "iu" or ids.shape != (n_layers,):
            raise LensError(
                f"layer_ids: found shape {ids.shape} of {ids.dtype}; expected {n_layers} whole "
                f"numbers, one a layer. {ADVICE}"
            )
        if len(set(ids.tolist())) != n_layers or ids.min() < 0 or ids.max() >= 2**31:
            raise LensError(
                f"layer_ids: expected {n_layers} different numbers from 0 up; found "
                f"{str(ids.tolist())[:120]}. {ADVICE}"
            )
        ids = ids.astype(np.int32)
    ids.flags.writeable = False
    return ids


def _check_columns(routers: np.ndarray, layer_ids: np.ndarray) -> None:
    """Refuse columns without a direction, and layers that are copies of another."""
    zero = ~routers.any(axis=1)  # [L, E]
    if zero.any():
        layer, expert = np.argwhere(zero)[0]
        raise LensError(
            f"Layer {layer_ids[layer]}, expert {expert}: the router column has zero norm, so it "
            f"has no direction; expected a column of weights ({zero.sum()} such columns in all). "
            f"{ADVICE}"
        )
    alike: dict[bytes, list[int]] = {}  # layers by their first rows, compared whole if those agree
    for layer, router in enumerate(routers):
        group = alike.setdefault(router[:2].tobytes(), [])
        first = next((k for k in group if np.array_equal(routers[k], router)), None)
        group.append(layer)
        if first is not None:
            raise LensError(
                f"Layers {layer_ids[first]} and {layer_ids[layer]}: their routers are the same to "
                f"the last bit; expected one of its own in each layer. {ADVICE}"
            )


def kind_of_npz(source: Source) -> Literal["routers", "trace"]:
    """Kind of an `.npz`, a router set or a routing trace, by the names of its arrays.

    Raises:
        LensError: it is neither, or not an `.npz`.
    """
    with open_npz(source) as npz:
        if "routers" in npz:
            return "routers"
        if "router_logits" in npz or "tokens" in npz:
            return "trace"
        raise LensError(
            f"{npz.where}: found {npz.names()}; expected an array 'routers' (a router set) or "
            "'tokens' and 'router_logits' (a trace). Make the file with lens.extract or grok.run."
        )


@remembered
def load_routers(source: Source) -> RouterSet:
    """The router set in an `.npz`, at a path or in a binary file.

    Only `routers` [layer, d_model, expert] must be there, as float32 or float64;
    without `norm_scales` the norms count as unknown. Nothing in the file is
    executed, and no size it declares is believed before it was checked.

    Raises:
        LensError: saying where, what was found, what was expected, what to do.
    """
    with open_npz(source) as npz:
        try:
            return _from_npz(npz)
        except LensError as error:
            text = str(error)
            prefix = f"{npz.where}"
            raise LensError(text if text.startswith(prefix) else f"{prefix}: {text}") from error


def _from_npz(npz: Npz) -> RouterSet:
    def optional(name: str) -> np.ndarray | None:
        return npz.array(name, ADVICE) if name in npz else None

    version = npz.scalar("format_version", "iu", ADVICE, FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise LensError(
            f"format_version: found {version}; this version reads {FORMAT_VERSION}. "
            "Update the project, or extract the routers again with this version."
        )
    found = RouterSet(
        routers=npz.array("routers", ADVICE),
        norm_scales=optional("norm_scales"),
        layer_ids=optional("layer_ids"),  # type: ignore[arg-type]
        top_k=npz.scalar("top_k", "iu", ADVICE, 2),
        top_k_known="top_k" in npz,
        score=npz.scalar("score", "U", ADVICE, "softmax"),
        biases=optional("biases"),
        source=npz.scalar("source", "U", ADVICE, npz.where),
    )
    declared = npz.scalar("sha256", "U", ADVICE, found.sha256)
    if declared.lower() != found.sha256:
        raise LensError(
            f"sha256: the file says '{plain(declared, 12)}…' and its arrays give "
            f"'{found.sha256[:12]}…', so it was altered or damaged after it was written. {ADVICE}"
        )
    return found


def save_routers(routers: RouterSet, path: str | os.PathLike[str]) -> None:
    """Write the set as an `.npz` that appears whole or not at all.

    Raises:
        LensError: the folder is missing or cannot be written.
    """
    path = Path(path)
    arrays: dict[str, Any] = {
        "routers": routers.routers,
        "layer_ids": routers.layer_ids,
        "top_k": np.int32(routers.top_k),
        "score": np.str_(routers.score),
        "source": np.str_(routers.source),
        "format_version": np.int32(routers.format_version),
        "sha256": np.str_(routers.sha256),
    }
    if routers.norm_scales is not None:
        arrays["norm_scales"] = routers.norm_scales
    if routers.biases is not None:
        arrays["biases"] = routers.biases
    try:
        with whole_file(path, mode=READABLE, sync=True) as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise LensError(
            f"{path}: the routers could not be written ({error.strerror or error}). "
            "Choose a folder that exists, can be written and has room."
        ) from error
