"""Sites said by attribute, such as `t.layers[3].router.logits`, in the block of a trace.

A proxy has no value. `.save()` asks for the value, `.edit(function)` and an assignment change it;
both write down what was asked for in a `TraceRequests`, which the trace runs at the block's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import jax
import numpy as np
from numpy.typing import ArrayLike

from grok.errors import InterventionError, SiteError
from grok.interventions.edits import Request, replace_with, request
from grok.interventions.kinds import Function
from grok.interventions.sites import LAYER_SITES, MODEL_SITES, HookPoint, known, model_point

Positions = int | Sequence[int] | slice | None

_EARLY = (
    "{0} has no value inside the block: the model runs at its end. Keep it with .save() and read "
    ".value after the block; change it with .edit(function)."
)


class _NoValueYet:
    """Refuses every use of a site as if it were an array."""

    def _too_early(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise SiteError(_EARLY.format(self))

    __array__ = __getitem__ = __iter__ = __len__ = __float__ = __int__ = __bool__ = _too_early
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _too_early
    __truediv__ = __rtruediv__ = __matmul__ = __rmatmul__ = __neg__ = _too_early
    __lt__ = __le__ = __gt__ = __ge__ = _too_early


class Saved(_NoValueYet):
    """A value that was asked for.

    Attributes:
        name: of its site.
    """

    def __init__(self, name: str, positions: Positions) -> None:
        self.name, self._positions = name, positions
        self._value: np.ndarray | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def value(self) -> np.ndarray:
        """The array [T, ...], or of the positions asked for; in the dtype of the site.

        Raises:
            SiteError: the block has not ended, or ended with an error.
        """
        if self._value is None:
            self._too_early()
        return self._value

    def fill(self, value: np.ndarray, prompt_length: int) -> None:
        """Takes the value of the whole run [T, ...] and keeps the positions asked for.

        Raises:
            SiteError: a position that was not read.
        """
        at = self._positions
        if at is None:
            self._value = value
            return
        if isinstance(at, slice):
            self._value = value[at]
            return
        rows = np.atleast_1d(np.asarray(at))
        rows = np.where(rows < 0, rows + prompt_length, rows)
        if (rows < 0).any() or (rows >= len(value)).any():
            raise SiteError(
                f"{self.name}: positions {np.atleast_1d(at).tolist()} of {len(value)} tokens that "
                "were read; expected positions among them."
            )
        self._value = value[rows]


class TraceRequests:
    """The values and edits that the block of one trace has asked for.

    Attributes:
        n_layers: layers of the model.
        state: "new", "open" inside the block, then "failed" or "done".
        edits: in the order in which they were asked for.
        saved: hook points whose values were asked for.
    """

    def __init__(self, n_layers: int) -> None:
        self.n_layers = n_layers
        self.state = "new"
        self.edits: list[Request] = []
        self.saved: list[tuple[HookPoint, Saved]] = []

    def check_open(self) -> None:
        """Refuses a request outside the block.

        Raises:
            SiteError: the block has not begun, or has ended.
        """
        if self.state == "new":
            raise SiteError("Use the trace in a block: with model.trace(prompt) as t: …")
        if self.state != "open":
            raise SiteError(
                "The block has ended and the model has run; what is asked for now would never "
                "happen. Ask inside the block."
            )

    def save(self, point: HookPoint, positions: Positions) -> Saved:
        """Asks for the value at a hook point."""
        self.check_open()
        saved = Saved(str(point), positions)
        self.saved.append((point, saved))
        return saved

    def edit(
        self,
        site: SiteProxy,
        function: Function,
        references: tuple[SiteProxy, ...],
        positions: Positions,
    ) -> None:
        """Asks for an edit of a site; see `SiteProxy.edit`.

        Raises:
            InterventionError: a reference that is no site of this block.
            SiteError: a reference that is computed at the site or after it.
        """
        self.check_open()
        for reference in references:
            if not isinstance(reference, SiteProxy) or reference.requests is not self:
                raise InterventionError(
                    f"{site}: a reference must be a site of the same block; found "
                    f"{type(reference).__name__}. Pass arrays through jax.tree_util.Partial."
                )
        given = tuple(reference.point() for reference in references)
        asked = request(site.name, function, site.layers, positions, given)
        for point in site.points():
            for earlier in given:
                if earlier.order >= point.order:
                    raise SiteError(
                        f"{point} cannot be changed with the value of {earlier}, which is "
                        "computed there or later. Save it in a run of its own."
                    )
        self.edits.append(asked)


class SiteProxy(_NoValueYet):
    """One site, of one layer or of several.

    Attributes:
        requests: takes what is asked for.
        name: of the site, without layer.
        layers: of the site; None outside the layers.
    """

    def __init__(self, requests: TraceRequests, name: str, layers: tuple[int, ...] | None) -> None:
        self.requests, self.name, self.layers = requests, name, layers

    def __str__(self) -> str:
        if self.layers is None:
            return self.name
        return f"layers[{', '.join(map(str, self.layers))}].{self.name}"

    def points(self) -> list[HookPoint]:
        """The hook points that are meant, one for each layer."""
        if self.layers is None:
            return [model_point(self.name, self.requests.n_layers)]
        return [HookPoint(layer, self.name) for layer in self.layers]

    def point(self) -> HookPoint:
        """The only hook point that is meant.

        Raises:
            SiteError: several layers are meant.
        """
        points = self.points()
        if len(points) != 1:
            raise SiteError(f"{self}: name one layer to refer to its value.")
        return points[0]

    def save(self, positions: Positions = None) -> Any:
        """Keeps the value; a list of saved values where several layers are meant.

        Args:
            positions: tokens to keep, negative from the end; all when None.
        """
        saved = [self.requests.save(point, positions) for point in self.points()]
        return saved if self.layers is not None and len(self.layers) > 1 else saved[0]

    def edit(self, function: Function, *references: SiteProxy, positions: Positions = None) -> None:
        """Changes the value to `function(value, *references)`.

        Args:
            function: an intervention of `grok.interventions`, or any function of arrays that
                jax compiles; values have a batch axis of 1 in front.
            references: earlier sites whose values the function is given too.
            positions: tokens to change, negative from the end of the prompt; all when None.
        """
        self.requests.edit(self, function, references, positions)

    def set(self, value: SiteProxy | Saved | ArrayLike, positions: Positions = None) -> None:
        """Replaces the value by an array, a saved value, or that of an earlier site."""
        if isinstance(value, SiteProxy):
            self.edit(take, value, positions=positions)
            return
        if isinstance(value, Saved):
            value = value.value
        self.edit(replace_with(value), positions=positions)


def take(value: jax.Array, other: jax.Array) -> jax.Array:
    """The value of another site, instead of this one's."""
    return other


class SiteGroup:
    """A dotted part of site names, such as `router` in "router.logits"."""

    def __init__(
        self, requests: TraceRequests, prefix: str, layers: tuple[int, ...] | None
    ) -> None:
        object.__setattr__(self, "_parts", (requests, prefix, layers))

    def _sites(self) -> tuple[str, ...]:
        return MODEL_SITES if self._parts[2] is None else LAYER_SITES

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        requests, prefix, layers = self._parts
        full = prefix + name
        if any(site.startswith(full + ".") for site in self._sites()):
            return SiteGroup(requests, full + ".", layers)
        return SiteProxy(requests, known(full, self._sites()), layers)

    def __setattr__(self, name: str, value: Any) -> None:
        site = getattr(self, name)
        if not isinstance(site, SiteProxy):
            raise SiteError(f"{self._parts[1]}{name} is not a site; assign to one of its sites.")
        site.set(value)

    def __dir__(self) -> list[str]:
        prefix = self._parts[1]
        return sorted(
            {s[len(prefix) :].split(".")[0] for s in self._sites() if s.startswith(prefix)}
        )


class LayersProxy:
    """`t.layers[3]`, `t.layers[2:6]`, `t.layers[:]`."""

    def __init__(self, requests: TraceRequests) -> None:
        self._requests = requests

    def __getitem__(self, which: int | slice) -> SiteGroup:
        n_layers = len(self)
        if isinstance(which, slice):
            chosen = tuple(range(n_layers)[which])
        elif isinstance(which, (int, np.integer)) and -n_layers <= which < n_layers:
            chosen = (int(which) % n_layers,)
        else:
            chosen = ()
        if not chosen:
            raise SiteError(f"layers[{which}]: this model has layers 0 to {n_layers - 1}.")
        return SiteGroup(self._requests, "", chosen)

    def __len__(self) -> int:
        return self._requests.n_layers
