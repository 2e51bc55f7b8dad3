"""Training: reproducible, resumable to the bit, balanced, and the same on any number of devices."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grok import train
from grok.architectures.moe import Choice
from grok.checkpoints.grok1 import expected_shape, tensor_paths
from grok.config import GrokConfig
from grok.errors import GrokError
from grok.training import corpus, export, step
from grok.training.corpus import FILE_DOMAINS
from grok.training.loss import mean_cross_entropy
from grok.training.sources import arithmetic, python_source
from grok.training.step import Recipe, by_path, initial_params, losses

CONFIG = GrokConfig(
    vocab_size=512,
    d_model=32,
    n_layers=2,
    n_heads=2,
    n_kv_heads=1,
    d_head=16,
    widening=3,
    n_experts=4,
    top_k=2,
    context_length=64,
    embedding_multiplier=32**0.5,
    output_multiplier=0.577,
    attention_multiplier=0.25,
)
RECIPE = Recipe(
    steps=6,
    batch=8,
    length=16,
    long_steps=2,
    long_length=32,
    warmup=2,
    learning_rate=2e-2,
    balance=0.5,
    focus_steps=2,
    focus_learning_rate=5e-3,
    capacity=2.0,  # of 4 experts, 2 a token: room for every choice
)
make_step = cache(step.make_step)  # one compilation for all runs of the same settings
first_state = step.initial_state


@cache
def initial_state(config: GrokConfig, recipe: Recipe) -> Any:
    """Made once, on the host: a step may give away the buffers it is handed."""
    return jax.device_get(first_state(config, recipe))


def batch(seed: int = 0, rows: int = 8) -> np.ndarray:
    """[B, 17] tokens with something to learn: they count upwards from a random start."""
    start = np.random.default_rng(seed).integers(1, 40, (rows, 1))
    return (start + np.arange(17)).astype(np.int32)


def run(steps: int, recipe: Recipe = RECIPE) -> tuple[Any, list[float]]:
    """The state and the losses after some steps on always the same batches."""
    one, state = make_step(CONFIG, recipe, "float32"), initial_state(CONFIG, recipe)
    seen = []
    for index in range(steps):
        state, parts, _ = one(state, batch(index))
        seen.append(float(parts.cross_entropy))
    return state, seen


def same(a: Any, b: Any) -> bool:
    leaves = list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
    return all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in leaves)


# --- one step ---------------------------------------------------------------------------


def test_the_same_seed_and_data_give_the_same_losses_and_weights():
    (first, losses_a), (second, losses_b) = run(3), run(3)
    assert losses_a == losses_b and same(first, second)


def test_another_seed_starts_elsewhere():
    first = initial_state(CONFIG, RECIPE).params
    assert not same(initial_params(CONFIG, RECIPE.seed + 1), first)
    assert same(initial_params(CONFIG, RECIPE.seed), first)


def test_the_loss_starts_near_that_of_a_uniform_guess_and_falls():
    _, seen = run(RECIPE.steps)
    assert abs(seen[0] - np.log(512)) < 0.3
    assert seen[-1] < seen[0] - 1


def test_devices_together_make_the_gradient_of_the_whole_batch():
    """The balance, too, is that of all devices' tokens."""
    state, tokens = initial_state(CONFIG, RECIPE), batch(5)
    whole = jax.jit(jax.grad(lambda p: losses(CONFIG, RECIPE, p, tokens, jnp.float32)[0]))
    wanted = float(jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(whole(state.params)))))
    assert len(jax.devices()) == len(tokens)  # one sequence on each
    _, _, norm = make_step(CONFIG, RECIPE, "float32")(state, tokens)
    assert float(norm) == pytest.approx(wanted, rel=1e-5)


def test_norms_and_routers_do_not_decay_and_matrices_do():
    recipe = replace(RECIPE, weight_decay=0.5)
    params = initial_state(CONFIG, RECIPE).params
    transform = step.optimizer(recipe)
    state = jax.jit(transform.init)(params)
    nothing = jax.tree.map(np.zeros_like, params)
    for _ in range(3):  # the first step's rate is 0
        updates, state = jax.jit(transform.update)(nothing, state, params)
    for part in ("io", "layers"):
        for path, update in updates[part].items():
            kept = path.endswith("scale") or path == "router/w"
            assert bool(np.any(np.asarray(update))) != kept, path


# --- the parts of the loss ----------------------------------------------------------------


def with_choice(
    monkeypatch: pytest.MonkeyPatch, logits: np.ndarray, **options: Any
) -> tuple[float, step.Losses]:
    """The loss and its parts when the routers give these logits [L, B, T, E]."""
    _, b, t, _ = logits.shape
    probs = jax.nn.softmax(jnp.asarray(logits, jnp.float32), axis=-1)
    gates, experts = jax.lax.top_k(probs, 2)
    choice = Choice(jnp.asarray(logits, jnp.float32), probs, experts, gates)
    h = jnp.ones((b, t, CONFIG.d_model))
    monkeypatch.setattr(step, "run_layers", lambda *args, **options: (h, choice))
    tokens = np.ones((b, t + 1), np.int32)
    params = initial_state(CONFIG, RECIPE).params
    total, parts = losses(CONFIG, RECIPE, params, tokens, jnp.float32, **options)
    return float(total), parts


def test_balance_is_one_for_even_routing_and_the_number_of_experts_at_worst(monkeypatch):
    """Every token another pair of neighbours of a ring: all loads and mean gates alike."""
    logits = np.full((2, 1, 8, 4), -50.0)
    for t in range(8):
        logits[:, :, t, [t % 4, (t + 1) % 4]] = 0.0
    _, parts = with_choice(monkeypatch, logits)
    np.testing.assert_allclose(parts.balance, 1.0, rtol=1e-5)
    np.testing.assert_allclose(parts.load, 0.25, rtol=1e-5)
    np.testing.assert_allclose(parts.router_z, np.log(2) ** 2, rtol=1e-4)

    logits = np.full((2, 1, 8, 4), -50.0)
    logits[..., 0], logits[..., 1] = 0.0, -20.0  # all tokens to 0, and to 1 beside it
    _, parts = with_choice(monkeypatch, logits)
    np.testing.assert_allclose(parts.load, [[0.5, 0.5, 0, 0]] * 2)
    np.testing.assert_allclose(parts.balance, 4 * 0.5, rtol=1e-5)


def test_sequence_entropy_is_low_when_the_tokens_of_a_text_share_an_expert(monkeypatch):
    """Two texts, each with an expert of its own: even over the batch, narrow in each text."""
    logits = np.full((2, 2, 8, 4), -50.0)
    logits[:, 0, :, 1] = logits[:, 1, :, 2] = 0.0
    _, parts = with_choice(monkeypatch, logits)
    np.testing.assert_allclose(parts.sequence_entropy, 0.0, atol=1e-6)

    mixed = np.full((2, 2, 8, 4), -50.0)
    mixed[:, :, ::2, 1] = mixed[:, :, 1::2, 2] = 0.0
    _, parts = with_choice(monkeypatch, mixed)
    np.testing.assert_allclose(parts.sequence_entropy, np.log(2), rtol=1e-5)


def test_focused_steps_add_the_sequence_entropy_of_every_layer_to_the_loss(monkeypatch):
    logits = np.random.default_rng(0).standard_normal((2, 2, 8, 4))
    plain, parts = with_choice(monkeypatch, logits)
    focused, same_parts = with_choice(monkeypatch, logits, focused=True)
    assert same(parts, same_parts) and parts.sequence_entropy > 0.5
    assert focused - plain == pytest.approx(
        RECIPE.focus * 2 * float(parts.sequence_entropy), rel=1e-3
    )


def test_cross_entropy_in_blocks_is_that_of_all_logits_at_once_and_so_are_its_gradients():
    rng = np.random.default_rng(0)
    h = jnp.asarray(rng.standard_normal((96, 16)), jnp.float32)
    table = jnp.asarray(rng.standard_normal((50, 16)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 50, 96), jnp.int32)

    def at_once(h: jax.Array, table: jax.Array) -> jax.Array:
        log_probs = jax.nn.log_softmax(0.7 * (h @ table.T), axis=-1)
        return -jnp.take_along_axis(log_probs, targets[:, None], axis=1).mean()

    def in_blocks(h: jax.Array, table: jax.Array) -> jax.Array:
        return mean_cross_entropy(h, table, targets, 0.7)

    wanted = jax.jit(jax.value_and_grad(at_once, argnums=(0, 1)))(h, table)
    got = jax.jit(jax.value_and_grad(in_blocks, argnums=(0, 1)))(h, table)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


# --- out of training ------------------------------------------------------------------------


def test_trained_weights_have_the_paths_and_shapes_of_a_checkpoint():
    twelve = replace(CONFIG, n_layers=12)
    shapes = jax.eval_shape(lambda: initial_params(twelve, 0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(x.dtype), shapes)
    weights = by_path(twelve, params)
    assert sorted(weights) == tensor_paths(12)
    for path, values in weights.items():
        assert values.shape == expected_shape(twelve, path), path
        assert values.dtype == np.float32
    router = "transformer/decoder_layer_10/router/w"
    assert np.array_equal(weights[router], params["layers"]["router/w"][10])


# --- a whole run ------------------------------------------------------------------------------


class StoppedError(Exception):
    """What interrupts a run here."""


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """training(output, stop=None, **changes): a small run's exported parameters and metrics."""
    texts = tmp_path / "corpus"
    texts.mkdir()
    for index, name in enumerate(FILE_DOMAINS):
        lines = [f"Ligne {number} à {name}, çà et là.\n" for number in range(400 + index)]
        (texts / f"{name}.txt").write_text("".join(lines), encoding="utf-8")
    monkeypatch.setattr(corpus, "python_source", lambda: python_source(20_000))
    monkeypatch.setattr(corpus, "arithmetic", lambda seed: arithmetic(seed, 5_000))
    monkeypatch.setattr(train, "SMALL", CONFIG)
    monkeypatch.setattr(train, "_use_all_cores", lambda: None)
    monkeypatch.setattr(step, "make_step", make_step)
    monkeypatch.setattr(step, "initial_state", initial_state)
    exported: list[Any] = []
    monkeypatch.setattr(
        export, "export", lambda config, params, *rest: exported.append(jax.device_get(params))
    )
    whole_batch = corpus.Batches.batch

    def go(output: Path, *, stop: int | None = None, **changes: Any) -> tuple[Any, list[dict]]:
        def batch(self: corpus.Batches, index: int) -> Any:
            if index == stop:
                raise StoppedError
            return whole_batch(self, index)

        monkeypatch.setattr(corpus.Batches, "batch", batch)
        recipe = replace(RECIPE, **changes)
        train.train(texts, output, recipe, dtype="float32", save_every=2)
        log = output.with_name(output.name + ".run") / "metrics.jsonl"
        return exported.pop(), [json.loads(line) for line in log.read_text().splitlines()]

    go.texts = texts  # type: ignore[attr-defined]
    return go


def test_a_resumed_run_goes_on_exactly_as_an_unbroken_one(training, tmp_path):
    unbroken, metrics = training(tmp_path / "unbroken")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6, 7, 8]
    for stop in (3, 5, 7):  # among short, long and focused batches, a step after a saved state
        with pytest.raises(StoppedError):
            training(tmp_path / "broken", stop=stop)
    resumed, again = training(tmp_path / "broken")
    assert same(unbroken, resumed)
    once = {line["step"]: line["loss"] for line in again}  # of steps run twice the later
    assert once == {line["step"]: line["loss"] for line in metrics}
    assert [line["step"] for line in again] == [1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8]


def test_a_finished_run_is_exported_again_without_another_step(training, tmp_path):
    first, metrics = training(tmp_path / "done")
    second, again = training(tmp_path / "done", stop=0)
    assert same(first, second) and again == metrics


def test_a_damaged_state_is_set_aside_and_a_half_line_of_the_log_is_passed_over(
    training, tmp_path, capsys
):
    with pytest.raises(StoppedError):
        training(tmp_path / "run", stop=3)
    work = tmp_path / "run.run"
    whole = (work / "state.npz").read_bytes()
    (work / "state.npz").write_bytes(whole[: len(whole) // 2])
    with (work / "metrics.jsonl").open("ab") as log:
        log.write(b'{"step": 4, "lo\xff')  # a kill in the middle of a line
    with pytest.raises(StoppedError):
        training(tmp_path / "run", stop=0)
    assert "damaged and has been set aside" in capsys.readouterr().out
    (aside,) = work.glob("damaged-*-state.npz")
    assert aside.read_bytes() == whole[: len(whole) // 2]
    assert export.progress_facts(work)["logged_steps"] == 3


def test_a_run_begun_with_other_settings_is_refused_by_their_names(training, tmp_path):
    with pytest.raises(StoppedError):
        training(tmp_path / "run", stop=3)
    with pytest.raises(GrokError, match=r"other settings \(balance, router_z\).*another --output"):
        training(tmp_path / "run", router_z=0.1, balance=0.1)


def test_the_load_of_every_expert_is_logged(training, tmp_path):
    _, metrics = training(tmp_path / "run")
    load = np.array(metrics[0]["load"])
    assert load.shape == (2, 4)
    assert np.abs(load.sum(-1) - 1).max() < 0.01
    assert metrics[0]["load_min"] == pytest.approx(load.min(), abs=1e-3)
    assert metrics[0]["tokens_per_s"] > 0


def test_a_folder_in_use_or_without_a_corpus_is_refused_with_exit_code_2(
    training, tmp_path, capsys
):
    full = tmp_path / "full"
    full.mkdir()
    (full / "something").touch()
    texts = str(training.texts)
    assert train.main(["--corpus", texts, "--output", str(full)]) == 2
    assert "full: exists and is not empty. Choose a new folder" in capsys.readouterr().err
    missing = ["--corpus", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")]
    assert train.main(missing) == 2
    assert "nowhere" in capsys.readouterr().err
    assert [path.name for path in full.iterdir()] == ["something"]
    assert not (tmp_path / "out").exists()
