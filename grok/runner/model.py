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

from grok.checkpoints.chat.template import ChatTemplate, Message
from grok.checkpoints.tokenizer import Tokenizer
from grok.engine.compiled import Forward, bucket, padded
from grok.engine.engine import Batch, Engine
from grok.engine.interfaces import LayerFigures
from grok.errors import PromptError
from grok.interventions.edits import NO_EDITS, Edits
from grok.interventions.hooks import Hooks, arrange_hooks, no_hooks
from grok.interventions.sites import HookPoint, Site, list_sites
from grok.runner.interfaces import Passes, Prompt
from grok.runner.results import Generation, Step, generation_of, routing_trace_of
from grok.runner.sampling import check_sampling, next_token
from grok.runner.tracing import Tracing
from grok.trace import RoutingTrace

if TYPE_CHECKING:
    from grok.planning.modes import Decision


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
        chat_template: of the checkpoint's folder; None for none.
        engine: runs the passes.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        name: str,
        sha256: str,
        tokenizer: Tokenizer | None,
        mesh: Mesh,
        mode: str = "resident",
        decision: Decision | None = None,
        chat_template: ChatTemplate | None = None,
    ) -> None:
        self.config, self.engine = engine.config, engine
        self.tokenizer, self.dtype, self.mesh = tokenizer, engine.dtype, mesh
        self.name, self.sha256 = name, sha256
        self.mode, self.decision, self.chat_template = mode, decision, chat_template

    @property
    def last_pass(self) -> Sequence[LayerFigures] | None:
        """Bytes and seconds of each layer of the last pass; None where nothing is streamed."""
        return self.engine.layers.last_pass

    @property
    def score(self) -> str:
        """What the router's probabilities are, "softmax" or "sigmoid"."""
        return self.engine.architecture.score

    @property
    def plain_gates(self) -> bool:
        """Whether gates are probabilities of the chosen, and nothing else."""
        return self.engine.architecture.plain_gates

    # text and tokens

    def encode(self, prompt: Prompt) -> np.ndarray:
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

    def chat_prompt(self, messages: str | Sequence[Message]) -> str:
        """What the model was taught to read for these messages, up to where it answers.

        Args:
            messages: what a user says, or all that was said, each with a role and a content.

        Raises:
            PromptError: the model has no chat template or no tokenizer, or the template fails.
        """
        if self.chat_template is None or self.tokenizer is None:
            raise PromptError(
                f"{self.name}: has no chat template; expected chat_template.jinja or one in "
                "tokenizer_config.json beside its tokenizer. Give a plain text."
            )
        return self.chat_template.prompt(messages, self.tokenizer)

    def pieces(self, tokens: Sequence[int] | np.ndarray, *, apart: bool = False) -> list[str]:
        """The pieces of ids, #id without a tokenizer.

        Args:
            apart: each id is read by itself, as candidates for one place are; else all as a text,
                in which one character's bytes may lie in several tokens.
        """
        if self.tokenizer is None:
            return [f"#{int(token)}" for token in tokens]
        if apart:
            return [self.tokenizer.piece(int(token)) for token in tokens]
        return self.tokenizer.pieces(tokens)

    def text(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of ids, the ids themselves without a tokenizer."""
        if self.tokenizer is None:
            return " ".join(str(int(token)) for token in tokens)
        return self.tokenizer.decode(tokens)

    # passes

    def forward(self, tokens: np.ndarray, *, candidates: int = 1) -> Forward:
        """One pass over sequences of one length.

        Args:
            tokens: [B, T]; T is used as it is, not padded to a bucket.
            candidates: next tokens to keep.
        """
        given = padded(list(tokens), tokens.shape[1], self.engine.architecture.pad_token)
        batch = Batch(tokens, 0, given.keys, None, candidates, no_hooks(self.config))
        return self.engine.run([batch])[0]

    def trace_routing(
        self,
        prompt: Prompt,
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
        result = self.run_one(tokens, candidates=candidates, edits=edits)
        return self.routing_trace([(tokens, result)], tokens.size, {"max_new_tokens": 0}, edits)

    def trace(
        self,
        prompt: Prompt,
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
        return list_sites(self.config, self.dtype, n_tokens, self.engine.architecture.layer_sites)

    def stream(
        self,
        prompt: Prompt,
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
        hooks = self.hooks(tokens, edits, wanted)
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
        length = max(n, bucket(tokens.size + max_new_tokens))
        caches = self.engine.caches(1, length)
        pad = self.engine.architecture.pad_token
        given = padded([tokens], n, pad)
        key_is_token = np.ones((1, length), bool)
        key_is_token[0, : tokens.size] = given.keys[0, : tokens.size]
        rng = np.random.default_rng(seed)
        read, start, count = tokens, 0, self.n_candidates(candidates)
        for _ in range(max_new_tokens):
            batch = Batch(given.tokens, start, key_is_token, caches, count, hooks, given.real)
            routing = self.engine.run([batch])[0]
            start += read.size
            token = next_token(routing.logits[0, read.size - 1], temperature, top_p, rng)
            yield Step(token, self.pieces([token])[0], read, routing)
            if token in self.config.eos_tokens:
                return
            read = np.array([token], np.int32)
            given = padded([read], 1, pad)
            key_is_token[0, start] = given.keys[0, 0]

    def generate(self, prompt: Prompt, *, max_new_tokens: int, **options: Any) -> Generation:
        """A continuation with its routing; arguments and errors as for `stream`."""
        steps = list(self.stream(prompt, max_new_tokens=max_new_tokens, **options))
        return self.collect(steps, {"max_new_tokens": max_new_tokens, **options})

    def collect(self, steps: Sequence[Step], options: Mapping[str, Any]) -> Generation:
        """The `Generation` of the steps of one `stream`, which was given these options."""
        return generation_of(self, steps, options)

    # what runs are made of

    def hooks(
        self, tokens: np.ndarray, edits: Edits = NO_EDITS, wanted: Iterable[HookPoint] = ()
    ) -> Hooks:
        """The hooks of a run of one prompt, checked against it before anything runs.

        Args:
            tokens: of the prompt [T].
            edits: interventions.
            wanted: hook points whose values the run gives back.

        Raises:
            SiteError, InterventionError: edits that do not fit the model or the prompt.
        """
        return arrange_hooks(
            self.config,
            edits,
            wanted=wanted,
            lengths=[tokens.size],
            padded=bucket(tokens.size),
            positions=bucket(self.config.context_length),
            layer_sites=self.engine.architecture.layer_sites,
        )

    def batch(self, tokens: np.ndarray, hooks: Hooks, *, candidates: int = 1) -> Batch:
        """One sequence, padded to its bucket, for `Engine.run`.

        Args:
            tokens: of the prompt [T].
            hooks: of this run.
            candidates: next tokens to keep.
        """
        pad = self.engine.architecture.pad_token
        given = padded([tokens], bucket(tokens.size), pad)
        count = self.n_candidates(candidates)
        return Batch(given.tokens, 0, given.keys, None, count, hooks, given.real)

    def run_one(
        self,
        tokens: np.ndarray,
        *,
        candidates: int = 1,
        edits: Edits = NO_EDITS,
        wanted: Iterable[HookPoint] = (),
    ) -> Forward:
        """One pass over one sequence, padded to its bucket.

        Args:
            tokens: of the prompt [T].
            candidates: next tokens to keep.
            edits: interventions.
            wanted: hook points whose values the result keeps.

        Returns:
            Arrays with a batch axis of 1 and the padding still in.

        Raises:
            SiteError, InterventionError: edits that do not fit the model or the prompt.
        """
        batch = self.batch(tokens, self.hooks(tokens, edits, wanted), candidates=candidates)
        return self.engine.run([batch])[0]

    def n_candidates(self, asked: int) -> int:
        """The next tokens that can be kept where so many are asked for: 1 to the vocabulary."""
        return max(1, min(asked, self.config.vocab_size))

    def routing_trace(
        self,
        passes: Passes,
        prompt_length: int,
        settings: Mapping[str, Any],
        edits: Edits = NO_EDITS,
    ) -> RoutingTrace:
        """The routing of the passes of one run, put together and without padding.

        Args:
            passes: the tokens that each pass read, and its result.
            prompt_length: tokens of the prompt.
            settings: of the run.
            edits: interventions of the run, which the settings then list.
        """
        given = {**settings, "interventions": edits.texts()} if edits else settings
        return routing_trace_of(self, passes, prompt_length, given)


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
