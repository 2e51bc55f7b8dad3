"""What a value at one token is made of, through all layers before: rows of an attribution graph.

A target is linear in the stream, once its norm is held: ⟨g, h⟩ plus a number of its own. Its
covector g goes down the layers, through attention with patterns and norms held. On the way it meets
what was added to the stream: each feature, bias and error has its share, and what is left meets the
embeddings. The mixture is cut: what experts add is what the dictionary says, plus the error. So
a row sums to its target, to the last digits of float32.

Axes: N targets, T tokens (P padded), D width, C columns, F features of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from grok.dictionaries.attribution.frozen import as_rows, logit_covector, offset, pulled
from grok.dictionaries.attribution.reading import PromptFeatures
from grok.dictionaries.attribution.readout import resident_params
from grok.engine.compiled import bucket, padded
from grok.errors import GrokError
from grok.interventions.sites import HookPoint

if TYPE_CHECKING:
    from grok.runner.model import Model

READS = ("router.input", "resid_pre", "resid_mid", "resid_post")
WRITES = ("attn.normed", "moe.normed", "resid_pre", "resid_mid", "resid_post")
TOGETHER = 32  # covectors


@dataclass(frozen=True)
class Target:
    """What is explained: a linear value at one token.

    Attributes:
        kind: "router": an expert's logit in `layer`; "feature": of a group; "token": the logit of
            a next token.
        token: position, negative from the end.
        index: of the expert, the feature or the next token.
        other: the expert or next token whose logit is taken off; None: the mean of all.
        layer: of a router; group: of a feature.
    """

    kind: str
    token: int
    index: int
    other: int | None = None
    layer: int = -1
    group: int = -1

    def of_logits(self, logits: np.ndarray) -> float:
        """The value of a router's target in its logits [E]."""
        other = logits.mean() if self.other is None else logits[self.other]
        return float(logits[self.index] - other)


class Covector(NamedTuple):
    """A target as a linear function.

    Attributes:
        layer, stage: where it joins the way down: a site of the stream, or "own" and that site for
            a feature of that very site, which is not made of the features beside it.
        token: position.
        g: [D].
        own: what the target has whatever the stream is.
        value: as the run had it.
    """

    layer: int
    stage: str
    token: int
    g: np.ndarray
    own: float
    value: float


class Columns:
    """What targets are made of: active features, and leaves.

    Attributes:
        kinds: of each column [C]: "feature", "error", "bias", "skip", "experts", "attention bias"
            or "embedding".
        sites: of each [C]; where a feature is read, where others are added.
        layers, tokens: of each [C]; groups, features: -1 for leaves.
        values: activation of a feature, 1 for leaves.
    """

    def __init__(self, read: PromptFeatures, lowest: Sequence[HookPoint]) -> None:
        design = read.dictionary.design
        n = read.tokens.size
        parts: list[tuple[str, str, int, np.ndarray, int, np.ndarray, np.ndarray]] = []
        self.active: list[np.ndarray] = []  # [T, F] column of each feature of a group, or -1
        count = 0
        for g, f in enumerate(read.features):
            tokens, indexes = np.nonzero(f)
            point = design.sources[design.groups[g].reads[0]]
            columns = np.full(f.shape, -1)
            columns[tokens, indexes] = count + np.arange(len(tokens))
            self.active.append(columns)
            count += len(tokens)
            parts.append(("feature", str(point), point.layer, tokens, g, indexes,
                          f[tokens, indexes]))  # fmt: skip
        self.leaves: dict[tuple[str, HookPoint], int] = {}
        every, none, one = np.arange(n), np.full(n, -1), np.ones(n)
        for kind, point in self._leaves(read, lowest):
            self.leaves[kind, point] = count
            count += n
            parts.append((kind, str(point), point.layer, every, -1, none, one))
        sizes = [len(part[3]) for part in parts]
        self.n = count
        self.kinds = np.repeat([part[0] for part in parts], sizes)
        self.sites = np.repeat([part[1] for part in parts], sizes)
        self.layers = np.repeat([part[2] for part in parts], sizes)
        self.groups = np.repeat([part[4] for part in parts], sizes)
        self.tokens, self.features, self.values = (
            np.concatenate([part[i] for part in parts]) for i in (3, 5, 6)
        )

    @staticmethod
    def _leaves(read: PromptFeatures, lowest: Sequence[HookPoint]) -> list[tuple[str, HookPoint]]:
        found = []
        for point in read.dictionary.design.targets:
            found += [("error", point), ("bias", point)]
            found += [("skip", point)] if read.skips else []
        return found + [(_LEAF[point.site], point) for point in lowest]


_LEAF = {"moe.normed": "experts", "attn.normed": "attention bias", "resid_pre": "embedding"}


class _Read(NamedTuple):
    """Features written to one site, token by token: columns [K]; rows [K, D]; first, the first
    of each token [T + 1]."""

    columns: np.ndarray
    rows: np.ndarray
    first: np.ndarray


class Rows:
    """Makes rows.

    Args:
        model: that the prompt was read with, in float32.
        read: the prompt.

    Raises:
        GrokError: sites or a kind that have no such rows, bfloat16, or weights not in memory.
    """

    def __init__(self, model: Model, read: PromptFeatures) -> None:
        _check(model, read)
        self.model, self.read = model, read
        self._resident = resident_params(model)
        n_layers = model.config.n_layers
        self._targets = read.dictionary.design.targets
        self._n = bucket(read.tokens.size)
        given = padded([read.tokens], self._n, model.engine.architecture.pad_token)
        self._keys = given.keys
        # What the stream is written by and the dictionary has no word for.
        additions = [HookPoint(i, s) for i in range(n_layers) for s in _LEAF if s != "resid_pre"]
        lowest = [point for point in additions if point not in self._targets]
        self.columns = Columns(read, [*lowest, HookPoint(0, "resid_pre")])
        self._streams = [
            as_rows(read.values[HookPoint(i, "resid_pre")], self._n) for i in range(n_layers)
        ]
        self._offsets: dict[int, np.ndarray] = {}
        self._reads: dict[int, _Read] = {}

    # targets

    def covector(self, target: Target) -> Covector:
        """A target as a linear function.

        Raises:
            GrokError: there is no such target.
        """
        token = self.read.position(target.token)
        if target.kind == "router":
            return self._of_router(target, token)
        if target.kind == "feature":
            return self._of_feature(target, token)
        if target.kind == "token":
            return self._of_token(target, token)
        raise GrokError(f"kind is {target.kind!r:.40}; expected router, feature or token.")

    def _of_router(self, target: Target, token: int) -> Covector:
        read = self.read
        row = read.row(target.layer)
        readout = read.readouts[target.layer]
        e = readout.columns.shape[1]
        weights = _difference(e, target, "expert")
        h = read.stream(target.layer, token)
        g = readout.columns @ weights / float(readout.length(h))
        value = float(readout.own(read.logits[row, token]) @ weights)
        return Covector(target.layer, "resid_mid", token, g, float(readout.bias @ weights), value)

    def _of_feature(self, target: Target, token: int) -> Covector:
        read = self.read
        design, params = read.dictionary.design, read.dictionary.params
        g, i = target.group, target.index
        if not (0 <= g < len(design.groups) and 0 <= i < design.features):
            raise GrokError(f"There is no feature {i} of group {g} in this {design.kind}.")
        if not read.features[g][token, i]:
            raise GrokError(
                f"Feature {i} of group {g} is not active at token {token}, so nothing made it."
            )
        point = design.sources[design.groups[g].reads[0]]
        column = np.asarray(params["encoder"][g][0][:, i], np.float64)
        own = float(params["encoder_bias"][g][i])
        value = float(read.features[g][token, i])
        if point.site != "router.input":
            own_site = point in design.targets
            stage = f"own {point.site}" if own_site else point.site
            return Covector(point.layer, stage, token, column, own, value)
        readout = read.readouts[point.layer]
        h = read.stream(point.layer, token)
        seen = column * readout.scale
        if readout.centred:
            seen = seen - seen.mean()
        covector = seen / float(readout.length(h))
        x = read.values[point][token].astype(np.float64)
        # A layer norm adds a number of its own; in a root mean square it is the rounding.
        own += float(x @ column - h @ covector)
        return Covector(point.layer, "resid_mid", token, covector, own, value)

    def _of_token(self, target: Target, token: int) -> Covector:
        last, v = self.model.config.n_layers - 1, self.model.config.vocab_size
        weights = _difference(v, target, "next token").astype(np.float32)
        pair = (self.read.values[HookPoint(last, site)][token].astype(np.float64)
                for site in ("resid_mid", "moe.normed"))  # fmt: skip
        h = sum(pair)
        value, g = logit_covector(
            self.model.engine.architecture, self._resident.outer, np.float32(h), weights
        )
        wide = np.asarray(g, np.float64)
        return Covector(
            last, "resid_post", token, wide, float(value) - float(wide @ h), float(value)
        )

    # rows

    def of(self, covectors: Sequence[Covector]) -> np.ndarray:
        """Rows [N, C] of covectors, without what they have of their own."""
        out = np.empty((len(covectors), self.columns.n), np.float32)
        for first in range(0, len(covectors), TOGETHER):
            some = covectors[first : first + TOGETHER]
            order = sorted(range(len(some)), key=lambda i: -some[i].layer)
            found = np.zeros((self.columns.n, len(some)), np.float32)
            self._down([some[i] for i in order], found)
            out[first + np.array(order)] = found.T
        return out

    def _down(self, some: Sequence[Covector], every: np.ndarray) -> None:
        """Adds rows to `every` [C, N], of covectors whose layers fall."""
        g = np.zeros((TOGETHER, self._n, self.model.config.d_model), np.float32)
        joining: dict[tuple[int, str], list[int]] = {}
        for i, covector in enumerate(some):
            joining.setdefault((covector.layer, covector.stage), []).append(i)

        def join(layer: int, stage: str) -> None:
            for i in joining.get((layer, stage), ()):
                g[i, some[i].token] += some[i].g.astype(np.float32)

        engine = self.model.engine
        for layer in range(some[0].layer, -1, -1):
            out = every[:, : sum(one.layer >= layer for one in some)]  # the others are 0 so far
            join(layer, "resid_post")
            self._stream(HookPoint(layer, "resid_post"), g, out)
            join(layer, "own resid_post")
            self._addition(HookPoint(layer, "moe.normed"), g, out)
            join(layer, "resid_mid")
            self._stream(HookPoint(layer, "resid_mid"), g, out)
            join(layer, "own resid_mid")
            if not self._addition(HookPoint(layer, "attn.normed"), g, out):
                architecture, params = engine.architecture.at(layer), self._resident.params[layer]
                h = self._streams[layer]
                g[:] = np.asarray(pulled(architecture, params, self._keys, h, g))
            join(layer, "resid_pre")
            self._stream(HookPoint(layer, "resid_pre"), g, out)
            join(layer, "own resid_pre")
        self._take("embedding", HookPoint(0, "resid_pre"), g, self._streams[0], out)

    def _stream(self, point: HookPoint, g: np.ndarray, out: np.ndarray) -> None:
        """Where the dictionary says what the whole stream is, nothing goes on below."""
        if point in self._targets:
            self._dictionary(point, g, out)
            g[:] = 0

    def _addition(self, point: HookPoint, g: np.ndarray, out: np.ndarray) -> bool:
        """Reads what is added to the stream; True where the dictionary says what that is."""
        if point in self._targets:
            self._dictionary(point, g, out)
            return True
        if point.site == "moe.normed":
            self._take("experts", point, g, self.read.values[point], out)
        else:
            self._take("attention bias", point, g, self._offset(point.layer), out)
        return False

    def _offset(self, layer: int) -> np.ndarray:
        if layer not in self._offsets:
            architecture = self.model.engine.architecture.at(layer)
            found = offset(
                architecture, self._resident.params[layer], self._keys, self._streams[layer]
            )
            self._offsets[layer] = np.asarray(found)
        return self._offsets[layer]

    def _take(
        self, kind: str, point: HookPoint, g: np.ndarray, values: np.ndarray, out: np.ndarray
    ) -> None:
        n = self.read.tokens.size
        first = self.columns.leaves[kind, point]
        share = np.einsum("ntd,td->tn", g[: out.shape[1], :n], values[:n])
        out[first : first + n] += share

    def _dictionary(self, point: HookPoint, g: np.ndarray, out: np.ndarray) -> None:
        read, n = self.read, self.read.tokens.size
        m = self._targets.index(point)
        self._take("error", point, g, read.errors[m], out)
        bias = np.tile(read.dictionary.params["decoder_bias"][m], (n, 1))
        self._take("bias", point, g, bias, out)
        if read.skips:
            self._take("skip", point, g, read.skips[m], out)
        own = self._written(m)
        share = np.empty((len(own.rows), out.shape[1]), np.float32)  # [K, N]
        for t, (first, last) in enumerate(pairwise(own.first.tolist())):
            np.matmul(own.rows[first:last], g[: out.shape[1], t].T, out=share[first:last])
        out[own.columns] += share

    def _written(self, target: int) -> _Read:
        """What features write to a target, by token; a column comes once, whatever writes it."""
        if target not in self._reads:
            read, n = self.read, self.read.tokens.size
            design, decoders = read.dictionary.design, read.dictionary.params["decoder"]
            groups = {
                g: group.writes.index(target)
                for g, group in enumerate(design.groups)
                if target in group.writes
            }
            found = {g: np.nonzero(read.features[g]) for g in groups}
            tokens = np.concatenate([at for at, _ in found.values()])
            order = np.argsort(tokens, kind="stable")
            columns = np.concatenate([self.columns.active[g][at] for g, at in found.items()])
            rows = np.concatenate(
                [read.features[g][at][:, None] * decoders[g][at[1], w]
                 for (g, w), at in zip(groups.items(), found.values(), strict=True)]
            )  # fmt: skip
            first = np.searchsorted(tokens[order], np.arange(n + 1))
            self._reads[target] = _Read(columns[order], rows[order].astype(np.float32), first)
        return self._reads[target]


def _difference(n: int, target: Target, what: str) -> np.ndarray:
    """Weights [n] of one above another, or above the mean of all."""
    for one in (target.index, target.other):
        if one is not None and not 0 <= one < n:
            raise GrokError(f"{what} {one}: there are {n}, from 0 to {n - 1}.")
    weights = np.zeros(n)
    weights[target.index] = 1
    if target.other is None:
        return weights - 1 / n
    weights[target.other] -= 1
    return weights


def _check(model: Model, read: PromptFeatures) -> None:
    design = read.dictionary.design
    if model.dtype != "float32":
        raise GrokError(
            f"{model.name} runs in {model.dtype}, whose roundings no row can hold. Load it with "
            'dtype="float32".'
        )
    if design.kind == "crosscoder":
        raise GrokError(
            "A crosscoder's features read all layers at once, so none comes before another and "
            "there is no graph. Use a transcoder, a clt, or an sae."
        )
    for point, known in [*((p, READS) for p in design.sources),
                         *((p, WRITES) for p in design.targets)]:  # fmt: skip
        if point.site not in known:
            raise GrokError(
                f"{point}: no row can be made of it; a graph takes dictionaries that read "
                f"{', '.join(READS)} and write {', '.join(WRITES)}."
            )
