"""Losses and steps against arithmetic that uses nothing of theirs, and toy data."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grok.dictionaries.kinds.design import Activation, Design
from grok.dictionaries.kinds.dictionary import finished
from grok.dictionaries.kinds.inference import apply
from grok.dictionaries.kinds.normalising import measured
from grok.dictionaries.training.losses import Batch, Held, Now, auxiliary_of, loss_of
from grok.dictionaries.training.settings import Loss, Settings, settings_of
from grok.dictionaries.training.sparse.step import make_sparse_step, serves
from grok.dictionaries.training.step import begun, calibrated, make_dense_step, make_step
from grok.dictionaries.training.update import annealed, constants_of

D, F, B = 5, 9, 16


def settings_for(kind: str = "sae", **parts) -> Settings:
    own = {"kind": kind, "reads": ["resid_mid"], "features": F, "layers": [0]}
    if kind == "transcoder":
        own |= {"reads": ["router.input"], "writes": ["moe.normed"]}
    own |= parts.pop("dictionary", {})
    return settings_of({"dictionary": own, **parts})


def design_of(settings: Settings, d: int = D) -> Design:
    own = settings.dictionary
    return Design(own.kind, own.layers, own.reads, own.writes or own.reads, own.features, d)


class ByHand:
    """A transcoder with ReLU, an L1 penalty, clipping and Adam, written out in float64."""

    def __init__(self, params, rate: float, coefficient: float, clip: float) -> None:
        first = params["encoder"][0][0], params["encoder_bias"][0]
        second = params["decoder"][0][:, 0], params["decoder_bias"][0]
        self.w = [np.asarray(one, np.float64).copy() for one in (*first, *second)]
        self.rate, self.coefficient, self.clip = rate, coefficient, clip
        self.m, self.v = ([np.zeros_like(one) for one in self.w] for _ in range(2))
        self.t = 0

    def step(self, x, y, denominator: float) -> float:
        w_e, b_e, w_d, b_d = self.w
        n = len(x)
        pre = x @ w_e + b_e
        f = np.maximum(pre, 0)
        norms = np.sqrt((w_d**2).sum(1))
        error = y - f @ w_d - b_d
        penalty = self.coefficient * (f * norms).sum(1).mean()
        loss = (error**2).sum(1).mean() / denominator + penalty
        out = -2 * error / n / denominator
        to_f = out @ w_d.T + self.coefficient * norms / n
        to_pre = to_f * (pre > 0)
        to_norm = self.coefficient * f.sum(0) / n
        grads = [
            x.T @ to_pre,
            to_pre.sum(0),
            f.T @ out + (to_norm / norms)[:, None] * w_d,
            out.sum(0),
        ]
        size = np.sqrt(sum((g**2).sum() for g in grads))
        grads = [g * min(1.0, self.clip / size) for g in grads]
        self.t += 1
        for i, g in enumerate(grads):
            self.m[i] = 0.9 * self.m[i] + 0.1 * g
            self.v[i] = 0.999 * self.v[i] + 0.001 * g**2
            m, v = self.m[i] / (1 - 0.9**self.t), self.v[i] / (1 - 0.999**self.t)
            self.w[i] = self.w[i] - self.rate * m / (np.sqrt(v) + 1e-8)
        return loss


@pytest.mark.parametrize("clip", [0.05, 100.0])
def test_three_steps_are_those_of_hand_arithmetic(clip):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 1, B, D)).astype(np.float32)
    settings = settings_for(
        "transcoder",
        activation={"function": "relu"},
        loss={"penalty": "l1", "coefficient": 0.02},
        normalisation={"reads": "none", "writes": "none"},
        training={"tokens": 4 * B, "batch": B, "learning_rate": 0.01, "warm_up": 0.0,
                  "decay": 0.0, "anneal": 0.0, "clip": clip},
    )  # fmt: skip
    design = design_of(settings)
    constants = constants_of(measured(x, "none"), measured(y, "none"))
    state = begun(design, settings, constants, Batch(x, y))
    hand = ByHand(state.params, 0.01, 0.02, clip)
    step = make_step(design, settings)
    denominator = float(constants.held.denominators[0])
    for i in range(3):
        batch = Batch(x * (1 + i), y, None)
        state, parts = step(state, batch, constants)
        strength = 1.0 if i else 0.0  # the penalty's warm-up is one step long
        hand.coefficient = 0.02 * strength
        expected = hand.step(batch.x[0].astype(np.float64), y[0].astype(np.float64), denominator)
        found = float(parts.error.mean() + parts.penalty)
        assert found == pytest.approx(expected, rel=1e-5)
    own = (state.params["encoder"][0][0], state.params["encoder_bias"][0],
           state.params["decoder"][0][:, 0], state.params["decoder_bias"][0])  # fmt: skip
    for a, b in zip(own, hand.w, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_penalties_are_what_they_say():
    design = Design("sae", (0,), ("resid_mid",), ("resid_mid",), 2, 2)
    params = {
        "encoder": [jnp.eye(2)[None]],
        "encoder_bias": jnp.zeros((1, 2)),
        "decoder": [jnp.array([[[3.0, 4.0]], [[0.0, 1.0]]])],  # norms 5 and 1
        "decoder_bias": jnp.zeros((1, 2)),
        "threshold": jnp.array([[0.5, 0.5]]),
    }
    x = jnp.array([[[1.0, 2.0], [0.4, 1.0]]])  # active above 0.5: two features, then one
    held = Held(jnp.ones(1))
    now = Now(jnp.float32(1), jnp.float32(1), jnp.zeros((1, 2), bool), jnp.ones(1))

    def penalty(kind: str, function: str) -> float:
        loss = Loss(kind, coefficient=1.0, scale=0.1, target=3.0, auxiliary=0.0)
        activation = Activation(function, threshold=0.5)
        _, parts = loss_of(
            params, Batch(x, x), now, held, design=design, activation=activation, loss=loss
        )
        return float(parts.penalty)

    assert penalty("l1", "relu") == pytest.approx((5 + 2 + 2 + 1) / 2)
    tanh = np.tanh([0.5, 0.2, 0.2, 0.1]).sum() / 2
    assert penalty("tanh", "relu") == pytest.approx(tanh)
    assert penalty("step", "jumprelu") == 1.5
    assert penalty("target_l0", "jumprelu") == pytest.approx((1.5 / 3 - 1) ** 2)


def test_dead_features_are_asked_to_explain_the_error():
    design = Design("sae", (0,), ("resid_mid",), ("resid_mid",), 2, 2)
    params = {"decoder": [jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])]}
    pre = [jnp.array([[2.0, 5.0], [4.0, 5.0]])]
    error = jnp.array([[[2.0, 0.0], [4.0, 0.0]]])
    loss = Loss(auxiliary_k=1, auxiliary_share=1.0)
    dead = jnp.array([[True, False]])
    # The dead one gives both errors exactly, the living one is not asked.
    assert float(auxiliary_of(loss, design, params, pre, error, dead)) == 0
    wrong = auxiliary_of(loss, design, params, pre, -error, dead)
    # ‖e - ê‖² = 16 + 64, ‖e - ē‖² = 2.
    assert float(wrong) == pytest.approx(80 / 2)
    assert float(auxiliary_of(loss, design, params, pre, -error, ~dead & False)) == 0


@pytest.mark.parametrize("make", [make_dense_step, make_sparse_step])
def test_frozen_decoders_stay_and_encoders_learn(make):
    settings = settings_for(
        "clt", dictionary={"reads": ["router.input"], "writes": ["moe.normed"], "layers": [0, 1]},
        activation={"k": 2}, training={"tokens": 64, "batch": 16, "frozen_decoder": True},
    )  # fmt: skip
    design = design_of(settings)
    x, y = np.random.default_rng(0).standard_normal((2, 2, B, D)).astype(np.float32)
    constants = constants_of(measured(x, "centred"), measured(y, "centred"))
    state = begun(design, settings, constants, Batch(x, y))
    before = jax.device_get(state.params)
    state, _ = make(design, settings)(state, Batch(x, y), constants)
    np.testing.assert_array_equal(before["decoder"][0], state.params["decoder"][0])
    np.testing.assert_allclose(np.linalg.norm(before["decoder"][0], axis=-1), 0.1, rtol=1e-5)
    assert not np.array_equal(before["encoder"][0], state.params["encoder"][0])


def test_schedules_end_where_they_should():
    settings = settings_for(
        activation={"k": 2},
        training={"tokens": 1000, "batch": 10, "anneal": 0.5, "k_start": 8.0},
    )
    k, strength = zip(*(annealed(settings, jnp.int32(i)) for i in (0, 25, 50, 99)), strict=True)
    np.testing.assert_allclose(k, [8, 4, 2, 2], rtol=1e-5)
    np.testing.assert_allclose(strength, [0, 0.5, 1, 1])


# --- toy data ---------------------------------------------------------------------------

N_TRUE, WIDTH, TOKENS = 24, 16, 4096


def toy() -> tuple[np.ndarray, np.ndarray]:
    """Directions [N, D], and sparse non-negative sums of them with a large mean added."""
    rng = np.random.default_rng(1)
    directions = rng.standard_normal((N_TRUE, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    active = rng.random((TOKENS, N_TRUE)) < 2 / N_TRUE
    codes = active * rng.uniform(0.5, 1.5, active.shape)
    return directions, (codes @ directions + 7.0).astype(np.float32)[None]


def trained(settings: Settings, x: np.ndarray, steps: int):
    design = design_of(settings, WIDTH)
    units = measured(x, "centred")
    constants = constants_of(units, units)
    state = begun(design, settings, constants, Batch(x, x))
    step = make_step(design, settings)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        rows = rng.integers(0, TOKENS, settings.training.batch)
        own = x[:, rows]
        state, parts = step(state, Batch(own, own), constants)
    levels = np.zeros(1)
    if settings.activation.function == "batch_topk":
        levels = calibrated(design, settings, state.params, constants, Batch(x, x))
    made = finished(design, settings.activation, state.params, units, units, levels, {})
    return state, parts, made


def recovery(directions: np.ndarray, made) -> float:
    """The mean over true directions of the largest cosine with a learned one."""
    learned = made.params["decoder"][0][:, 0]
    learned = learned / np.linalg.norm(learned, axis=1, keepdims=True)
    return float((directions @ learned.T).max(axis=1).mean())


def toy_settings(**parts) -> Settings:
    steps = parts.pop("steps")
    training = {"tokens": steps * 256, "batch": 256, "learning_rate": 4e-3, "k_start": 8.0,
                "dead_window": 20_000} | parts.pop("training", {})  # fmt: skip
    return settings_for(dictionary={"features": 48}, training=training, **parts)


def test_batch_topk_finds_a_known_dictionary_and_is_as_active_afterwards():
    directions, x = toy()
    settings = toy_settings(steps=1500, activation={"k": 2})
    _, parts, made = trained(settings, x, 1500)
    assert recovery(directions, made) >= 0.95
    applied = apply(made, x)
    assert float((applied.features[0] > 0).mean() * 48) == pytest.approx(2, rel=0.01)
    assert float(parts.error.mean()) < 0.1


def test_jumprelu_reaches_the_number_of_active_features_that_it_is_told():
    directions, x = toy()
    settings = toy_settings(
        steps=1500,
        activation={"function": "jumprelu", "bandwidth": 0.5, "threshold": 0.1},
        loss={"penalty": "target_l0", "coefficient": 0.3, "target": 2.0},
    )
    state, parts, made = trained(settings, x, 1500)
    assert float(parts.active[0]) == pytest.approx(2, rel=0.1)
    assert recovery(directions, made) >= 0.95
    assert (np.asarray(state.params["threshold"]) >= 0).all()


# --- sparse steps -----------------------------------------------------------------------

SPARSE = {
    "sae": ({"kind": "sae"}, {"k": 2}),
    "clt, pooled and gated": (
        {"kind": "clt", "reads": ["router.input"], "writes": ["moe.normed"]},
        {"k": 2, "pooled": True, "gate_by_norm": True},
    ),
    "crosscoder": ({"kind": "crosscoder"}, {"k": 2, "gate_by_norm": True}),
}


# The one in which most can go wrong always runs.
ALWAYS = "clt, pooled and gated"


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=[pytest.mark.repeats] * (one != ALWAYS)) for one in SPARSE]
)
def test_steps_over_active_features_alone_are_those_of_dense_products(name):
    own, activation = SPARSE[name]
    settings = settings_for(
        dictionary={"layers": [0, 1, 2], "features": 24, **own},
        activation=activation,
        training={"tokens": 64 * 12, "batch": 64, "dead_window": 128, "k_start": 6.0},
    )
    design = design_of(settings)
    assert serves(design, settings)
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3, 64, D)).astype(np.float32)
    y = x if design.sources == design.targets else np.tanh(x[:, :, ::-1] + 1)
    y = np.ascontiguousarray(y)
    constants = constants_of(measured(x, "centred"), measured(y, "centred"))
    states = []
    for make in (make_dense_step, make_sparse_step):
        state = begun(design, settings, constants, Batch(x, y))
        # Features that never fire: they are dead in time, and asked to explain the error.
        bias = state.params["encoder_bias"].at[:, :5].add(-3.0)
        state = state._replace(params=state.params | {"encoder_bias": bias})
        step, numbers = make(design, settings), []
        for i in range(12):
            rows = np.random.default_rng(i).permutation(64)
            state, parts = step(state, Batch(x[:, rows], y[:, rows]), constants)
            numbers.append(jax.device_get(parts))
        states.append((jax.device_get(state), numbers))
    (a, dense), (b, sparse) = states
    assert any(one.auxiliary > 0 for one in dense)
    for one, other in zip(dense, sparse, strict=True):
        np.testing.assert_array_equal(one.fired, other.fired)
        np.testing.assert_allclose(one.error, other.error, rtol=1e-4)
        np.testing.assert_allclose(one.auxiliary, other.auxiliary, rtol=1e-3)
        np.testing.assert_allclose(one.active, other.active)
    for one, other in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)
    np.testing.assert_array_equal(a.idle, b.idle)
