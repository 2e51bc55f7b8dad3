"""`with model.trace(prompt) as t`: what to change and what to keep, said by attribute.

Inside the block nothing has been computed: `t.layers[3].router.logits` is a site, of which
`.save()` asks for the value and `.edit(fn)`, or an assignment, changes it. The run comes when
the block ends, and only if it ends without an error. Then `saved.value`, `t.routing` and
`t.logits`' saved value are there.

Edits of one site are made in the order in which they were asked for; a saved value is the
one after all of them, whichever was asked for first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from grok.errors import GrokError, SiteError
from grok.interventions.edits import Edits
from grok.runner.interfaces import RunnableModel
from grok.runner.results import Generation
from grok.runner.saved_values import write_saved
from grok.runner.site_proxies import LayersProxy, SiteGroup, TraceRequests
from grok.trace import RoutingTrace


class Tracing:
    """The block and, after it, its results. Made by `Model.trace`.

    Attributes:
        layers: sites in the layers.
        routing: the routing with the edits in force.
        generation: what was generated, None when nothing was asked for.
    """

    layers: LayersProxy

    def __init__(
        self,
        model: RunnableModel,
        tokens: np.ndarray,
        max_new_tokens: int,
        candidates: int,
        sampling: Mapping[str, Any],
    ) -> None:
        # Assignments to a trace are edits, so its own attributes are set past them.
        hidden = {
            "_model": model,
            "_tokens": tokens,
            "_options": {"max_new_tokens": max_new_tokens, "candidates": candidates, **sampling},
            "_requests": TraceRequests(model.config.n_layers),
            "_results": {},
        }
        for name, value in hidden.items():
            object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name == "layers":
            return LayersProxy(self._requests)
        if name in ("routing", "generation"):
            if self._requests.state != "done":
                raise SiteError(
                    f"t.{name} is there after the block: the model runs at its end."
                    if self._requests.state == "open"
                    else f"t.{name}: the model has not run."
                )
            return self._results[name]
        return getattr(SiteGroup(self._requests, "", None), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(SiteGroup(self._requests, "", None), name, value)

    def __dir__(self) -> list[str]:
        sites = dir(SiteGroup(self._requests, "", None))
        return ["layers", "routing", "generation", "save", "edits", *sites]

    @property
    def edits(self) -> Edits:
        """The edits asked for so far, to be used in other runs."""
        return Edits(tuple(self._requests.edits))

    def add(self, edits: Edits) -> None:
        """Makes edits that were put together elsewhere."""
        self._requests.check_open()
        self._requests.edits.extend(edits.requests)

    # the block

    def __enter__(self) -> Tracing:
        if self._requests.state != "new":
            raise SiteError("This trace has been entered before; call model.trace again.")
        self._requests.state = "open"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._requests.state = "failed"
        if kind is None:
            self._run()
            self._requests.state = "done"

    def _run(self) -> None:
        model: RunnableModel = self._model
        requests: TraceRequests = self._requests
        tokens, options = self._tokens, dict(self._options)
        wanted = {point for point, _ in requests.saved}
        generation: Generation | None = None
        if options["max_new_tokens"]:
            steps = list(model.stream(tokens, edits=self.edits, wanted=wanted, **options))
            generation = model.collect(steps, {**options, "edits": self.edits})
            routing: RoutingTrace = generation.trace
            passes = [(step.read.size, step.routing.kept) for step in steps]
        else:
            result = model.run_one(
                tokens, candidates=options["candidates"], edits=self.edits, wanted=wanted
            )
            routing = model.routing_trace(
                [(tokens, result)], tokens.size, {"max_new_tokens": 0}, self.edits
            )
            passes = [(tokens.size, result.kept)]
        for point, saved in requests.saved:
            whole = np.concatenate([kept[point][0, :size] for size, kept in passes])
            saved.fill(whole, tokens.size)
        self._results.update(routing=routing, generation=generation)

    # files

    def save(self, file: str | Path) -> None:
        """Writes the saved values with tokens, model hash and settings, whole or not at all.

        bfloat16 values are written as float32, which holds them exactly.

        Raises:
            GrokError: nothing was saved, or the file cannot be written.
        """
        routing = self.routing
        if not self._requests.saved:
            raise GrokError(
                "Nothing was saved in the block; t.routing.save(FILE) keeps the routing."
            )
        values = ((str(point), saved.value) for point, saved in self._requests.saved)
        write_saved(file, routing, values)
