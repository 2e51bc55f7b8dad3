"""Every way to multiply with stored weights against float64, and the choice among them."""

from __future__ import annotations

import json
from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from grok.architectures import chosen_ways, products
from grok.architectures.chosen_ways import VARIABLE, best, chosen, seconds_of
from grok.architectures.products import WAYS, plain, product, product_way, ways_of
from grok.architectures.samples import sample
from grok.architectures.stored_values import float_values
from grok.checkpoints.block_scales import BlockScaled, MicroScaled, Turned
from grok.checkpoints.tensor_file import QuantizedWeight8bit
from grok.errors import GrokError

FLOAT32 = 2e-6
FOUR = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
WIDE = [(kind, name) for kind in WAYS for name in ways_of(kind)]


def exact(w):
    """The values of a stored matrix [K, N] in float64, by the rules of the formats."""
    if isinstance(w, Turned):
        return exact(w.values).T
    if isinstance(w, QuantizedWeight8bit):
        scales = np.repeat(np.asarray(w.scales, np.float64), len(w.weight) // len(w.scales), 0)
        return w.weight.astype(np.float64) * scales
    if isinstance(w, BlockScaled):
        rows, columns = w.weight.shape
        scales = np.repeat(np.repeat(w.scales, w.block[0], 0), w.block[1], 1)[:rows, :columns]
        return w.weight.view(ml_dtypes.float8_e4m3fn).astype(np.float64) * scales
    if isinstance(w, MicroScaled):
        codes = np.stack([w.blocks & 15, w.blocks >> 4], -1).reshape(*w.scales.shape, 32)
        values = np.array([*FOUR, *(-v for v in FOUR)])[codes]
        powers = np.exp2(w.scales.astype(np.float64) - 127)
        return (values * powers[..., None]).reshape(len(codes), -1).T
    return np.asarray(w, np.float64)


def given(kind):
    """A matrix that fills no whole number of blocks, and rows."""
    w = sample(kind, 384, 299)
    if kind == "int8":
        scales = w.scales.astype(np.float32)
        w = QuantizedWeight8bit(w.weight, np.concatenate([scales, scales * 2]))
    return w, np.random.default_rng(1).standard_normal((3, 384)).astype(np.float32)


@pytest.mark.parametrize(("kind", "name"), WIDE)
def test_every_way_gives_the_product_of_the_stored_values(kind, name):
    w, x = given(kind)
    # Not compiled as the model's programs are: a compiler may keep more than was asked for.
    run = jax.jit(partial(ways_of(kind)[name], dtype=jnp.float32))
    found, wanted = np.asarray(run(x, w), np.float64), x.astype(np.float64) @ exact(w)
    assert np.abs(found - wanted).max() <= FLOAT32 * np.abs(wanted).max()
    rows = jnp.asarray(x, jnp.bfloat16)
    wanted = np.asarray(rows, np.float64) @ exact(w)
    found = np.asarray(run(rows, w), np.float64)
    assert np.abs(found - wanted).max() <= FLOAT32 * np.abs(wanted).max()


def test_int8_times_scale_is_rounded_where_the_product_is_bfloat16():
    w, x = given("int8")
    rows = x.astype(ml_dtypes.bfloat16)
    values = exact(w).astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)
    wanted = rows.astype(np.float64) @ values
    for way in WAYS["int8"].values():
        found = np.asarray(way(jnp.asarray(rows), w, jnp.bfloat16), np.float64)
        assert np.abs(found - wanted).max() <= FLOAT32 * np.abs(wanted).max()


def test_every_code_of_eight_and_four_bits_is_its_value():
    codes = np.arange(256, dtype=np.uint8).reshape(2, 128)
    there = (codes & 0x7F) != 0x7F
    eight = BlockScaled(codes, np.ones((1, 1), np.float32), (2, 128))
    found = np.asarray(float_values(eight, jnp.float32))
    assert np.array_equal(found[there], codes.view(ml_dtypes.float8_e4m3fn).astype("f4")[there])
    blocks = np.arange(256, dtype=np.uint8).reshape(4, 4, 16)
    four = MicroScaled(blocks, np.full((4, 4), 120, np.uint8))
    assert np.array_equal(np.asarray(float_values(four, jnp.float32)), exact(four))


def test_a_product_is_the_chosen_way_s_in_the_wider_dtype(monkeypatch):
    monkeypatch.setattr("grok.architectures.products.LARGE", 1)
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    w, x = given("bfloat16 turned")
    rows = jnp.asarray(x, jnp.bfloat16)
    for name in ("off", "bfloat16", "vectors"):
        monkeypatch.setenv(VARIABLE, name)
        found = product(rows[None], w)
        assert found.shape == (1, 3, 299) and found.dtype == jnp.bfloat16
    monkeypatch.setenv(VARIABLE, "bfloat16")
    assert np.array_equal(product(x, w), ways_of("bfloat16 turned")["bfloat16"](x, w, None))
    monkeypatch.setenv(VARIABLE, "off")
    assert np.array_equal(product(x, w), plain(x, w, jnp.float32))


# --- the choice ---------------------------------------------------------------------------------


@pytest.fixture
def measuring(monkeypatch, tmp_path):
    """Asks for a way; counts what is measured, in a process that knows nothing yet."""
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("GROK_LENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(chosen_ways, "_known", {})
    monkeypatch.setattr(
        chosen_ways, "seconds_of", lambda trials: {n: r() for n, r in trials.items()}
    )
    monkeypatch.setattr(chosen_ways.os, "getloadavg", lambda: (0.5, 0, 0))
    asked = []

    def ask(rows=3, names=("plain", "float32")):
        def trials(n):
            asked.append(n)
            return {name: lambda s=1.0 / (i + 1): s for i, name in enumerate(names)}

        return chosen("int8", "float32", rows, names, trials)

    return ask, asked


def again(monkeypatch):
    """As another process begins."""
    monkeypatch.setattr(chosen_ways, "_known", {})


def test_the_fastest_way_is_measured_once_for_a_processor(measuring, monkeypatch, tmp_path):
    ask, asked = measuring
    assert ask() == ask(4) == "float32" and asked == [4]
    assert ask(1000) == "float32" and asked == [4, 256]
    again(monkeypatch)
    assert ask() == "float32" and asked == [4, 256]
    (file,) = (tmp_path / "cache").iterdir()
    kept = json.loads(file.read_text())
    assert "numpy" in kept["machine"] and len(kept["ways"]) == 2
    # Of another processor, or a way that is not at hand.
    for content in ({**kept, "machine": "another"}, {**kept, "ways": {"int8, float32, 4": "sums"}}):
        file.write_text(json.dumps(content))
        again(monkeypatch)
        asked.clear()
        assert ask() == "float32" and asked == [4]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\x00", b'{"ways": 3}', b"[" * 10**5])
def test_a_damaged_file_is_measured_anew(measuring, tmp_path, content):
    ask, asked = measuring
    chosen_ways.write_whole(chosen_ways._file(), content)
    assert ask() == "float32" and asked == [4]
    assert json.loads(chosen_ways._file().read_text())["ways"]


def test_a_busy_machine_keeps_nothing(measuring, monkeypatch, tmp_path):
    ask, asked = measuring
    monkeypatch.setattr(chosen_ways.os, "getloadavg", lambda: (1000.0, 0, 0))
    assert ask() == ask() == "float32" and asked == [4]
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written_is_no_error(measuring, monkeypatch, tmp_path):
    ask, asked = measuring
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GROK_LENS_CACHE", str(tmp_path / "file" / "below"))
    assert ask() == ask() == "float32" and asked == [4]


def test_a_variable_fixes_the_way_or_switches_measuring_off(measuring, monkeypatch):
    ask, asked = measuring
    for value, wanted in (("off", "plain"), ("float32", "float32"), ("vectors", "plain")):
        monkeypatch.setenv(VARIABLE, value)
        assert ask() == wanted
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(GrokError, match="is 'fast'; expected measured, off or a way: plain"):
        ask()
    assert not asked


def test_hand_written_loops_are_taken_only_where_they_win_clearly():
    assert best({"vectors": 1.0, "float32": 1.1}) == "float32"
    assert best({"vectors": 1.0, "float32": 1.3}) == "vectors"


def test_ways_take_turns_and_a_slow_one_is_left_out():
    turns = []
    clock = iter(np.cumsum([0.0, *([0.0, 1.0, 0.0, 9.0] * 40)]))

    def run(name):
        return lambda: turns.append(name)

    import grok.architectures.chosen_ways as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.time, "perf_counter", lambda: next(clock))
        found = seconds_of({"a": run("a"), "b": run("b")}, spent=100)
    assert turns[:8] == ["a", "b"] * 4 and set(turns[8:]) == {"a"}
    assert min(found, key=lambda name: found[name]) == "a"


def test_one_row_of_a_deep_matrix_is_measured_on_such(monkeypatch):
    """For one a compiler makes floats of the matrix first, for the other it does not."""
    asked = []

    def noted(kind, dtype, rows, names, trials):
        asked.append((kind, trials.args[-1]))
        return names[0]

    monkeypatch.setattr(products, "chosen", noted)
    monkeypatch.setattr(products.jax, "device_count", lambda: 1)
    for rows, depth in [(1, 2048), (1, 4096), (2, 4096), (1, 14336)]:
        product_way(jnp.zeros((rows, depth)), np.zeros((depth, 512), jnp.bfloat16))
    short, long = ("bfloat16, short", (2048, 8192)), ("bfloat16", (4096, 4096))
    assert asked == [short, long, long, long]
