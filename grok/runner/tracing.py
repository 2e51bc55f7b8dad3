"""`with model.trace(prompt) as t`: what to change and what to keep, said by attribute.

Inside the block nothing has been computed: `t.layers[3].router.logits` is a site, of which
`.save()` asks for the value and `.edit(fn)`, or an assignment, changes it. The run comes when
the block ends, and only if it ends without an error. Then `saved.value`, `t.routing` and
`t.logits`' saved value are there.

Edits of one site are made in the order in which they were asked for; a saved value is the
one after all of them, whichever was asked for first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from grok.errors import GrokError, InterventionError, SiteError
from grok.files import write_whole
from grok.interventions.edits import Edits, Request, replace_with, request
from grok.interventions.sites import LAYER_SITES, MODEL_SITES, HookPoint, known, model_point
from grok.trace import RoutingTrace

if TYPE_CHECKING:
    from grok.runner.model import Model
    from grok.runner.results import Generation

Positions = int | Sequence[int] | slice | None

FORMAT_VERSION = 1
_EARLY = (
    "{0} has no value inside the block: the model runs at its end. Keep it with .save() and read "
    ".value after the block; change it with .edit(function)."
)


class _NotYet:
    """What every use of a site as if it were an array says."""

    def _too_early(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise SiteError(_EARLY.format(self))

    __array__ = __getitem__ = __iter__ = __len__ = __float__ = __int__ = __bool__ = _too_early
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _too_early
    __truediv__ = __rtruediv__ = __matmul__ = __rmatmul__ = __neg__ = _too_early
    __lt__ = __le__ = __gt__ = __ge__ = _too_early


class SiteProxy(_NotYet):
    """One site, of one layer or of several."""

    def __init__(self, tracing: Tracing, site: str, layers: tuple[int, ...] | None) -> None:
        self._tracing, self._site, self._layers = tracing, site, layers

    def __str__(self) -> str:
        if self._layers is None:
            return self._site
        return f"layers[{', '.join(map(str, self._layers))}].{self._site}"

    def _points(self) -> list[HookPoint]:
        n_layers = self._tracing._model.config.n_layers
        if self._layers is None:
            return [model_point(self._site, n_layers)]
        return [HookPoint(layer, self._site) for layer in self._layers]

    def _point(self) -> HookPoint:
        points = self._points()
        if len(points) != 1:
            raise SiteError(f"{self}: name one layer to refer to its value.")
        return points[0]

    def save(self, positions: Positions = None) -> Any:
        """Keeps the value; a list of saved values where several layers are meant.

        Args:
            positions: tokens to keep, negative from the end; all when None.
        """
        saved = [self._tracing._save(point, positions) for point in self._points()]
        return saved if self._layers is not None and len(self._layers) > 1 else saved[0]

    def edit(self, function: Any, *references: SiteProxy, positions: Positions = None) -> None:
        """Changes the value to `function(value, *references)`.

        Args:
            function: an intervention of `grok.interventions.edits`, or any function of arrays that
                jax compiles; values have a batch axis of 1 in front.
            references: earlier sites whose values the function is given too.
            positions: tokens to change, negative from the end of the prompt; all when None.
        """
        self._tracing._edit(self, function, references, positions)

    def set(self, value: Any, positions: Positions = None) -> None:
        """Replaces the value by an array, a saved value, or that of an earlier site."""
        if isinstance(value, SiteProxy):
            self.edit(take, value, positions=positions)
            return
        if isinstance(value, Saved):
            value = value.value
        self.edit(replace_with(value), positions=positions)


def take(value: Any, other: Any) -> Any:
    """The value of another site in this one's stead."""
    return other


class _Group:
    """A dotted part of site names, such as `router` in "router.logits"."""

    def __init__(self, tracing: Tracing, prefix: str, layers: tuple[int, ...] | None) -> None:
        object.__setattr__(self, "_parts", (tracing, prefix, layers))

    def _sites(self) -> tuple[str, ...]:
        return MODEL_SITES if self._parts[2] is None else LAYER_SITES

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        tracing, prefix, layers = self._parts
        full = prefix + name
        if any(site.startswith(full + ".") for site in self._sites()):
            return _Group(tracing, full + ".", layers)
        return SiteProxy(tracing, known(full, self._sites()), layers)

    def __setattr__(self, name: str, value: Any) -> None:
        point = getattr(self, name)
        if not isinstance(point, SiteProxy):
            raise SiteError(f"{self._parts[1]}{name} is not a site; assign to one of its sites.")
        point.set(value)

    def __dir__(self) -> list[str]:
        prefix = self._parts[1]
        return sorted(
            {s[len(prefix) :].split(".")[0] for s in self._sites() if s.startswith(prefix)}
        )


class Layers:
    """`t.layers[3]`, `t.layers[2:6]`, `t.layers[:]`."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing

    def __getitem__(self, which: int | slice) -> _Group:
        n_layers = self._tracing._model.config.n_layers
        if isinstance(which, slice):
            chosen = tuple(range(n_layers)[which])
        elif isinstance(which, (int, np.integer)) and -n_layers <= which < n_layers:
            chosen = (int(which) % n_layers,)
        else:
            chosen = ()
        if not chosen:
            raise SiteError(f"layers[{which}]: this model has layers 0 to {n_layers - 1}.")
        return _Group(self._tracing, "", chosen)

    def __len__(self) -> int:
        return self._tracing._model.config.n_layers


class Saved(_NotYet):
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

    def _fill(self, value: np.ndarray, prompt_length: int) -> None:
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


class Tracing:
    """The block and, after it, its results. Made by `Model.trace`.

    Attributes:
        layers: sites in the layers.
        routing: the routing with the edits in force.
        generation: what was generated, None when nothing was asked for.
    """

    layers: Layers

    def __init__(
        self,
        model: Model,
        tokens: np.ndarray,
        max_new_tokens: int,
        candidates: int,
        sampling: Mapping[str, Any],
    ) -> None:
        hidden = {
            "_model": model,
            "_tokens": tokens,
            "_options": {"max_new_tokens": max_new_tokens, "candidates": candidates, **sampling},
            "_requests": [],
            "_saved": [],
            "_state": "new",
            "_results": {},
        }
        for name, value in hidden.items():
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name == "layers":
            return Layers(self)
        if name in ("routing", "generation"):
            if self._state != "done":
                raise SiteError(
                    f"t.{name} is there after the block: the model runs at its end."
                    if self._state == "open"
                    else f"t.{name}: the model has not run."
                )
            return self._results[name]
        return getattr(_Group(self, "", None), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(_Group(self, "", None), name, value)

    def __dir__(self) -> list[str]:
        return ["layers", "routing", "generation", "save", "edits", *dir(_Group(self, "", None))]

    @property
    def edits(self) -> Edits:
        """The edits asked for so far, to be used in other runs."""
        return Edits(tuple(self._requests))

    def add(self, edits: Edits) -> None:
        """Makes edits that were put together elsewhere."""
        self._check_open()
        self._requests.extend(edits.requests)

    # the block

    def __enter__(self) -> Tracing:
        if self._state != "new":
            raise SiteError("This trace has been entered before; call model.trace again.")
        object.__setattr__(self, "_state", "open")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        object.__setattr__(self, "_state", "failed")
        if kind is None:
            self._run()
            object.__setattr__(self, "_state", "done")

    def _check_open(self) -> None:
        if self._state == "new":
            raise SiteError("Use the trace in a block: with model.trace(prompt) as t: …")
        if self._state != "open":
            raise SiteError(
                "The block has ended and the model has run; what is asked for now would never "
                "happen. Ask inside the block."
            )

    def _save(self, point: HookPoint, positions: Positions) -> Saved:
        self._check_open()
        saved = Saved(str(point), positions)
        self._saved.append((point, saved))
        return saved

    def _edit(
        self,
        site: SiteProxy,
        function: Any,
        references: tuple[SiteProxy, ...],
        positions: Positions,
    ) -> None:
        self._check_open()
        for reference in references:
            if not isinstance(reference, SiteProxy) or reference._tracing is not self:
                raise InterventionError(
                    f"{site}: a reference must be a site of the same block; found "
                    f"{type(reference).__name__}. Pass arrays through jax.tree_util.Partial."
                )
        given = tuple(reference._point() for reference in references)
        asked: Request = request(site._site, function, site._layers, positions, given)
        for point in site._points():
            for earlier in given:
                if earlier.order >= point.order:
                    raise SiteError(
                        f"{point} cannot be changed with the value of {earlier}, which is "
                        "computed there or later. Save it in a run of its own."
                    )
        self._requests.append(asked)

    def _run(self) -> None:
        wanted = {point for point, _ in self._saved}
        model, tokens, options = self._model, self._tokens, dict(self._options)
        generation: Generation | None = None
        if options["max_new_tokens"]:
            steps = list(model.stream(tokens, edits=self.edits, wanted=wanted, **options))
            generation = model.collect(steps, {**options, "edits": self.edits})
            routing: RoutingTrace = generation.trace
            passes = [(step.read.size, step.routing.kept) for step in steps]
        else:
            result = model._read(tokens, options["candidates"], self.edits, wanted)
            routing = model._trace(
                [(tokens, result)], tokens.size, {"max_new_tokens": 0}, self.edits
            )
            passes = [(tokens.size, result.kept)]
        for point, saved in self._saved:
            whole = np.concatenate([kept[point][0, :size] for size, kept in passes])
            saved._fill(whole, tokens.size)
        self._results.update(routing=routing, generation=generation)

    # files

    def save(self, file: str | Path) -> None:
        """Writes the saved values with tokens, model hash and settings, whole or not at all.

        bfloat16 values are written as float32, which holds them exactly.

        Raises:
            GrokError: nothing was saved, or the file cannot be written.
        """
        routing = self.routing
        if not self._saved:
            raise GrokError(
                "Nothing was saved in the block; t.routing.save(FILE) keeps the routing."
            )
        entries: dict[str, Any] = {
            "format_version": np.array(FORMAT_VERSION, np.int32),
            "tokens": routing.tokens.astype(np.int32),
            "pieces": routing.pieces.astype(np.str_),
            "prompt_length": np.array(routing.prompt_length, np.int32),
            "model_sha256": np.array(routing.model_sha256),
            "settings": np.array(json.dumps(routing.settings, sort_keys=True)),
        }
        for point, saved in self._saved:
            value = saved.value
            wide = value if value.dtype.kind in "iu" else value.astype(np.float32)
            entries[f"site:{point}"] = wide
        file = Path(file)
        if not file.parent.is_dir() or file.is_dir():
            raise GrokError(f"{file}: not a file in an existing folder; nothing was saved.")
        try:
            write_whole(file, lambda stream: np.savez_compressed(stream, **entries))
        except OSError as error:
            raise GrokError(f"{file}: nothing was saved ({error.strerror}).") from error


class SavedTrace:
    """The values that `Tracing.save` wrote.

    Attributes:
        values: array [T, ...] of each site, by its full name.
        tokens: ids [T]; pieces: their pieces.
        prompt_length: tokens that were given.
        model_sha256: hash over the routers of the model.
        settings: how the run was made, interventions included.
    """

    def __init__(self, entries: Mapping[str, np.ndarray]) -> None:
        self.values = {
            name[len("site:") :]: array
            for name, array in entries.items()
            if name.startswith("site:")
        }
        self.tokens, self.pieces = entries["tokens"], entries["pieces"]
        self.prompt_length = int(entries["prompt_length"])
        self.model_sha256 = str(entries["model_sha256"])
        self.settings: dict[str, Any] = json.loads(str(entries["settings"]))


def load_saved(file: str | Path) -> SavedTrace:
    """The values that `Tracing.save` wrote; nothing in the file is executed.

    Raises:
        GrokError: the file cannot be read as one of these.
    """
    try:
        with np.load(file, allow_pickle=False) as entries:
            if int(entries["format_version"]) != FORMAT_VERSION:
                raise ValueError(f"format {entries['format_version']}")
            return SavedTrace({name: entries[name] for name in entries.files})
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise GrokError(
            f"{file}: not a file of saved values ({str(error):.120}); expected one that a "
            "trace's save(FILE) wrote."
        ) from error
