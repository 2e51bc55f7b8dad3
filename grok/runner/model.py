"""A loaded model: prompt in, routing out.

A call pads its tokens to a bucket, so a new length inside a bucket compiles nothing;
one compiled layer serves all layers. Nothing about a call is kept in the model, so
calls may come from several threads, one at a time (see `grok.serving.queue`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.sharding import Mesh

from grok.checkpoints.tokenizer import Tokenizer
from grok.config import GrokConfig
from grok.engine.compiled import Forward, bucket, padded
from grok.engine.engine import Batch, Engine
from grok.errors import PromptError
from grok.interventions.edits import NO_EDITS, Edits
from grok.interventions.hooks import Hooks, arrange_hooks, no_hooks
from grok.interventions.sites import (
    AXES,
    EMBED,
    FLOAT32,
    LAYER_SITES,
    LOGITS,
    NORM,
    HookPoint,
    Site,
)
from grok.runner.results import Generation, Step
from grok.runner.sampling import check_sampling, next_token
from grok.runner.tracing import Tracing
from grok.trace import RoutingTrace

if TYPE_CHECKING:
    from grok.planning.modes import Decision
    from grok.streaming.host_layers import LayerFigures


# --- results -----------------------------------------------------------------


# --- the model ---------------------------------------------------------------


class Model:
    """A model on its devices. Made by `load`.

    Attributes:
        config: its shape.
        tokenizer: None when there is none; then prompts are token ids.
        dtype: of activations, "bfloat16" or "float32".
        sha256: hash over routers and pre-MoE norms, as in a routers `.npz`.
        mesh: the ("data", "model") mesh.
        name: name of the checkpoint's folder.
        mode: "resident", all weights on the devices, or "streamed", read layer by layer.
        decision: why that mode, with an estimate, where `load` chose it.
        engine: runs the passes.
    """

    def __init__(
        self,
        config: GrokConfig,
        engine: Engine,
        *,
        name: str,
        sha256: str,
        tokenizer: Tokenizer | None,
        mesh: Mesh,
        mode: str = "resident",
        decision: Decision | None = None,
    ) -> None:
        self.config, self.engine = config, engine
        self.tokenizer, self.dtype, self.mesh = tokenizer, engine.dtype, mesh
        self.name, self.sha256 = name, sha256
        self.mode, self.decision = mode, decision

    @property
    def last_pass(self) -> list[LayerFigures] | None:
        """What each layer of the last pass took; None where nothing is streamed."""
        return getattr(self.engine.layers, "last_pass", None)

    # text and tokens

    def encode(self, prompt: str | Sequence[int] | np.ndarray) -> np.ndarray:
        """Token ids [T] int32 of text, or ids as they are, checked.

        Raises:
            PromptError: empty, not valid Unicode, ids outside the vocabulary, longer than the
                context, or text without a tokenizer.
        """
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise PromptError(
                    "This checkpoint has no tokenizer, so a prompt must be token ids. Put "
                    "tokenizer.model beside ckpt-0, or name one with --tokenizer FILE."
                )
            tokens = self.tokenizer.encode(prompt)
        else:
            tokens = _as_ids(prompt, self.config.vocab_size)
        if tokens.size == 0:
            raise PromptError("The prompt is empty. Type at least one character or token.")
        if tokens.size > self.config.context_length:
            raise PromptError(
                f"The prompt has {tokens.size} tokens; this model's context holds "
                f"{self.config.context_length}. Shorten it."
            )
        return tokens

    def pieces(self, tokens: Sequence[int] | np.ndarray) -> list[str]:
        """The pieces of ids, #id without a tokenizer."""
        if self.tokenizer is None:
            return [f"#{int(token)}" for token in tokens]
        return self.tokenizer.pieces(tokens)

    def text(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of ids, the ids themselves without a tokenizer."""
        if self.tokenizer is None:
            return " ".join(str(int(token)) for token in tokens)
        return self.tokenizer.decode(tokens)

    # passes

    def forward(self, tokens: np.ndarray, *, candidates: int = 1) -> Forward:
        """One pass over sequences of one length; token 0 is padding.

        Args:
            tokens: [B, T]; T is used as it is, not padded to a bucket.
            candidates: next tokens to keep.
        """
        batch = Batch(tokens, 0, tokens > 0, None, candidates, no_hooks(self.config))
        return self.engine.run([batch])[0]

    def trace_routing(
        self,
        prompt: str | Sequence[int] | np.ndarray,
        *,
        candidates: int = 10,
        edits: Edits = NO_EDITS,
    ) -> RoutingTrace:
        """The routing of a prompt, and the most probable next tokens after each token.

        Args:
            prompt: text, or token ids.
            candidates: next tokens to keep, C.
            edits: interventions of this run alone; see `grok.interventions.edits.edit`.

        Raises:
            PromptError: see `encode`.
            SiteError, InterventionError: edits that do not fit the model.
        """
        tokens = self.encode(prompt)
        result = self._read(tokens, candidates, edits)
        return self._trace([(tokens, result)], tokens.size, {"max_new_tokens": 0}, edits)

    def trace(
        self,
        prompt: str | Sequence[int] | np.ndarray,
        *,
        max_new_tokens: int = 0,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        candidates: int = 10,
    ) -> Tracing:
        """A `with` block that says what to change and what to keep; the run comes at its end.

        >>> with model.trace("The capital of France is") as t:   # doctest: +SKIP
        ...     t.layers[3].router.logits.edit(ban(2))
        ...     stream = t.layers[5].resid_post.save()
        >>> stream.value.shape, t.routing.experts.shape          # doctest: +SKIP

        Args: as for `stream`; `max_new_tokens` of 0 only reads the prompt.

        Raises:
            PromptError: see `encode` and `stream`.
        """
        sampling = {"temperature": temperature, "top_p": top_p, "seed": seed}
        return Tracing(self, self.encode(prompt), max_new_tokens, candidates, sampling)

    def sites(self, n_tokens: int = 1) -> list[Site]:
        """Every site with its axes, its shape for `n_tokens` tokens and its dtype; runs nothing."""
        shapes = {
            "n_experts": self.config.n_experts,
            "top_k": self.config.top_k,
            "d_model": self.config.d_model,
            "vocab_size": self.config.vocab_size,
        }

        def site(point: HookPoint) -> Site:
            axes = AXES[point.site]
            dtype = "float32" if point.site in FLOAT32 else self.dtype
            if point.site == "router.experts":
                dtype = "int32"
            shape = (n_tokens, *(shapes[axis] for axis in axes))
            return Site(str(point), ("token", *axes), shape, dtype)

        last = self.config.n_layers
        layers = [HookPoint(i, name) for i in range(last) for name in LAYER_SITES]
        return [
            site(p)
            for p in (HookPoint(-1, EMBED), *layers, HookPoint(last, NORM), HookPoint(last, LOGITS))
        ]

    def stream(
        self,
        prompt: str | Sequence[int] | np.ndarray,
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        candidates: int = 10,
        edits: Edits = NO_EDITS,
        wanted: Iterable[HookPoint] = (),
    ) -> Iterator[Step]:
        """Generates token by token; ends at `max_new_tokens` or after the end-of-sequence token.

        Args:
            prompt: text, or token ids.
            max_new_tokens: at least 1.
            temperature: 0 is greedy (of ties the first id).
            top_p: nucleus; 1 keeps all tokens.
            seed: of the draws; the same seed and settings give the same tokens.
            candidates: next tokens to keep in the routing.
            edits: interventions, in force for every token that is read.
            wanted: hook points whose values each step keeps.

        Raises:
            PromptError: unusable prompt or settings, or no room for the new tokens.
            SiteError, InterventionError: edits that do not fit the model.
        """
        tokens = self.encode(prompt)
        check_sampling(temperature, top_p, seed)
        if max_new_tokens < 1:
            raise PromptError(f"max_new_tokens is {max_new_tokens}; expected at least 1.")
        room = self.config.context_length - tokens.size
        if max_new_tokens > room:
            raise PromptError(
                f"The prompt has {tokens.size} tokens, so there is room for {room} new ones in "
                f"this model's context; {max_new_tokens} were asked for."
            )
        hooks = self._hooks(tokens, edits, wanted)
        return self._stream(tokens, max_new_tokens, temperature, top_p, seed, candidates, hooks)

    def _stream(
        self,
        tokens: np.ndarray,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
        candidates: int,
        hooks: Hooks,
    ) -> Iterator[Step]:
        n = bucket(tokens.size)
        caches = self.engine.caches(1, max(n, bucket(tokens.size + max_new_tokens)))
        length = caches[0].keys.shape[1]
        key_is_token = np.ones((1, length), bool)
        key_is_token[0, : tokens.size] = tokens > 0
        given, real = padded([tokens], n)
        rng = np.random.default_rng(seed)
        read, start, count = tokens, 0, self._count(candidates)
        for _ in range(max_new_tokens):
            batch = Batch(given, start, key_is_token, caches, count, hooks, real)
            routing = self.engine.run([batch])[0]
            start += read.size
            token = next_token(routing.logits[0, read.size - 1], temperature, top_p, rng)
            yield Step(token, self.pieces([token])[0], read, routing)
            if token == self.config.eos_token:
                return
            key_is_token[0, start] = token > 0
            read = np.array([token], np.int32)
            given, real = padded([read], 1)

    def generate(
        self, prompt: str | Sequence[int] | np.ndarray, *, max_new_tokens: int, **options: Any
    ) -> Generation:
        """A continuation with its routing; arguments and errors as for `stream`."""
        steps = list(self.stream(prompt, max_new_tokens=max_new_tokens, **options))
        return self.collect(steps, {"max_new_tokens": max_new_tokens, **options})

    def collect(self, steps: Sequence[Step], options: Mapping[str, Any]) -> Generation:
        """The `Generation` of the steps of one `stream`, which was given these options."""
        passes = [(step.read, step.routing) for step in steps]
        new = [step.token for step in steps]
        settings = {k: v for k, v in options.items() if k not in ("edits", "wanted")}
        trace = self._trace(passes, steps[0].read.size, settings, options.get("edits", NO_EDITS))
        return Generation(new, self.text(new), trace)

    # internals

    def _hooks(self, tokens: np.ndarray, edits: Edits, wanted: Iterable[HookPoint] = ()) -> Hooks:
        return arrange_hooks(
            self.config,
            edits,
            wanted=wanted,
            lengths=[tokens.size],
            padded=bucket(tokens.size),
            positions=bucket(self.config.context_length),
        )

    def _read(
        self,
        tokens: np.ndarray,
        candidates: int = 1,
        edits: Edits = NO_EDITS,
        wanted: Iterable[HookPoint] = (),
    ) -> Forward:
        """One pass over one sequence, padded to its bucket."""
        hooks = self._hooks(tokens, edits, wanted)
        given, real = padded([tokens], bucket(tokens.size))
        batch = Batch(given, 0, given > 0, None, self._count(candidates), hooks, real)
        return self.engine.run([batch])[0]

    def _count(self, candidates: int) -> int:
        return max(1, min(candidates, self.config.vocab_size))

    def _trace(
        self,
        passes: Sequence[tuple[np.ndarray, Forward]],
        prompt_length: int,
        settings: Mapping[str, Any],
        edits: Edits = NO_EDITS,
    ) -> RoutingTrace:
        tokens = np.concatenate([read for read, _ in passes])

        def joined(name: str, axis: int) -> np.ndarray:
            parts = []
            for read, routing in passes:
                one = np.take(getattr(routing, name), 0, axis=axis - 1)  # the only sequence
                parts.append(np.take(one, np.arange(read.size), axis=axis - 1))
            return np.concatenate(parts, axis=axis - 1)

        candidates = joined("candidates", 1)
        rows = [self.pieces(row) for row in candidates]
        return RoutingTrace(
            tokens=tokens,
            pieces=np.array(self.pieces(tokens), dtype=np.str_),
            prompt_length=prompt_length,
            router_logits=joined("router_logits", 2),
            router_probs=joined("router_probs", 2),
            experts=joined("experts", 2),
            gates=joined("gates", 2),
            candidates=candidates,
            candidate_probs=joined("candidate_probs", 1),
            candidate_pieces=np.array(rows, dtype=np.str_),
            model_sha256=self.sha256,
            settings={"model": self.name, "dtype": self.dtype, **settings}
            | ({"interventions": edits.texts()} if edits else {}),
        )


def _as_ids(prompt: Sequence[int] | np.ndarray, vocab_size: int) -> np.ndarray:
    try:
        ids = np.asarray(prompt)
    except ValueError:  # rows of several lengths
        ids = np.asarray(list(prompt), dtype=object)
    if ids.size and (ids.ndim != 1 or ids.dtype.kind not in "iu"):
        raise PromptError(f"Token ids must be one row of whole numbers; found {prompt!r:.80}.")
    if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
        bad = int(ids[(ids < 0) | (ids >= vocab_size)][0])
        raise PromptError(f"Token id {bad} is outside the vocabulary, 0 to {vocab_size - 1}.")
    return ids.astype(np.int32)
