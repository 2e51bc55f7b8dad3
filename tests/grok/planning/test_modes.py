"""Plans: what each mode reads, holds and takes, by hand-checked arithmetic; the choice in words."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from grok.architectures.grok1 import Grok1
from grok.config import GROK_1
from grok.errors import DeviceError, GrokError
from grok.planning.costs import (
    ON_DEMAND_TOKENS,
    distinct_experts,
    layer_bytes,
    model_bytes,
    read_layer_bytes,
)
from grok.planning.machine import Rates
from grok.planning.modes import (
    DEFAULT_BUDGET,
    choose,
    limit,
    plan,
    streamed_bytes,
)
from grok.streaming.device_memory import fit
from grok.streaming.host_layers import FEW_ROWS
from grok.streaming.host_memory import smallest_budget
from grok.units import duration, size

GB = 1_000_000_000
EXPERT = 3 * 6144 * 32768
LAYER_FILES = 1611137347 * 2 + 1611399491 + 6293814 * 2 + 37847359 + 37761334 + 4 * 24727 + 196770

LAPTOP = Rates(
    read_bytes_per_s=1e9,
    products_bytes_per_s=4e9,
    flops=200e9,
    memory_bytes=23 * GB,
    devices="CPU, 2 cores",
    device_bytes=23 * GB,
)
SERVER = replace(
    LAPTOP,
    memory_bytes=500 * GB,
    device_bytes=8 * 80 * GB,
    devices="8 x NVIDIA H100",
    on_cpu=False,
    n_devices=8,
    resident_bytes_per_s=1e12,
    resident_flops=100e12,
)
TINY = replace(GROK_1, vocab_size=512, d_model=64, n_layers=3, n_heads=4, n_kv_heads=2, d_head=16)


# --- sizes --------------------------------------------------------------------------------


def test_a_layer_and_the_model_take_what_their_files_take_but_for_scales_and_headers():
    assert 0 <= 1 - layer_bytes(Grok1(GROK_1)) / LAYER_FILES < 1e-3
    assert 0 <= 1 - model_bytes(Grok1(GROK_1)) / 318_239_886_140 < 1e-3


@pytest.mark.parametrize(
    ("tokens", "experts"), [(1, 2), (2, 3.5), (3, 4.625), (8, 7.199), (64, 8.0)]
)
def test_tokens_touch_the_expected_number_of_experts(tokens, experts):
    assert distinct_experts(GROK_1, tokens) == pytest.approx(experts, abs=1e-3)


def test_uniform_random_choices_touch_as_many_experts_as_expected():
    rng = np.random.default_rng(0)
    config = replace(GROK_1, n_experts=7, top_k=3)
    scores = rng.random((4000, 4, 7))
    chosen = np.argsort(scores)[..., :3].reshape(4000, -1)
    found = [len(set(row)) for row in chosen.tolist()]
    assert np.mean(found) == pytest.approx(distinct_experts(config, 4), abs=0.05)


def test_up_to_three_tokens_read_the_chosen_experts_and_more_read_whole_layers():
    others = layer_bytes(Grok1(GROK_1)) - 8 * EXPERT
    for tokens, experts in ((1, 2), (2, 3.5), (3, 4.625)):
        assert read_layer_bytes(Grok1(GROK_1), tokens) == others + experts * EXPERT
    for tokens in (4, 8, 64, 2048):
        assert read_layer_bytes(Grok1(GROK_1), tokens) == layer_bytes(Grok1(GROK_1))


def test_few_tokens_are_as_few_as_streaming_takes_them_to_be():
    assert ON_DEMAND_TOKENS == FEW_ROWS


def test_a_pass_reads_the_model_once_and_a_token_a_quarter_of_it():
    streamed = plan(Grok1(GROK_1), LAPTOP)[1]
    assert streamed.read_bytes_per_pass == model_bytes(Grok1(GROK_1))
    others = (
        2 * 6144 * 6144 + 2 * 6144 * 1024 + 4 * (6144 * 8 + 4 * 6144)
    )  # attention, router, norms
    ends = 4 * (131072 * 6144 + 6144)
    assert streamed.read_bytes_per_token == 64 * (2 * EXPERT + others) + ends
    resident = plan(Grok1(GROK_1), SERVER)[0]
    assert resident.read_bytes_per_pass == resident.read_bytes_per_token == 0
    # Of 315.7 billion weights a token uses 84; the embedding's have four bytes.
    for mode in (resident, streamed):
        assert mode.weight_bytes_per_token == streamed.read_bytes_per_token
    active = GROK_1.n_parameters(active=True)
    assert active < resident.weight_bytes_per_token < active + 4 * 131072 * 6144


# --- times --------------------------------------------------------------------------------


def test_a_pass_takes_as_long_as_reading_when_the_disk_is_slow():
    streamed = plan(Grok1(GROK_1), LAPTOP, n_tokens=64)[1]
    assert streamed.binds == streamed.token_binds == "disk"
    assert streamed.seconds_per_pass == pytest.approx(model_bytes(Grok1(GROK_1)) / 1e9)
    assert streamed.seconds_per_token == pytest.approx(streamed.read_bytes_per_token / 1e9)


def test_a_long_prompt_is_bound_by_arithmetic():
    streamed = plan(Grok1(GROK_1), LAPTOP, n_tokens=2048)[1]
    assert streamed.binds == "arithmetic" and streamed.token_binds == "disk"
    weights = GROK_1.n_parameters(active=True) - 64 * 4 * 6144
    scores = 2 * 2048 * 2048 * 2 * 48 * 128 * 64
    passing = model_bytes(Grok1(GROK_1)) / 4e9  # over the weights
    assert streamed.seconds_per_pass == pytest.approx(
        (2 * 2048 * weights + scores) / 200e9 + passing, rel=0.01
    )


def test_few_tokens_from_a_fast_disk_are_bound_by_memory_bandwidth():
    fast = replace(LAPTOP, read_bytes_per_s=100e9, flops=2000e9)
    streamed = plan(Grok1(GROK_1), fast, n_tokens=8)[1]
    assert streamed.binds == "memory bandwidth"
    passed = 64 * (layer_bytes(Grok1(GROK_1)) - (8 - distinct_experts(GROK_1, 8)) * EXPERT) + 3.22e9
    operations = 2 * 8 * GROK_1.n_parameters(active=True)
    assert streamed.seconds_per_pass == pytest.approx(passed / 4e9 + operations / 2e12, rel=0.01)


@pytest.mark.parametrize("seed", range(20))
def test_no_limit_is_beaten_and_a_faster_machine_is_never_slower(seed):
    rng = np.random.default_rng(seed)
    read, products, flops = 10 ** rng.uniform([8, 8, 10], [11, 11, 13])
    tokens = int(rng.integers(1, 2049))
    rates = replace(LAPTOP, read_bytes_per_s=read, products_bytes_per_s=products, flops=flops)
    found = plan(Grok1(GROK_1), rates, n_tokens=tokens)[1]
    assert found.seconds_per_pass is not None
    assert found.seconds_per_pass >= found.read_bytes_per_pass / read * 0.999
    for name in ("read_bytes_per_s", "products_bytes_per_s", "flops"):
        faster = replace(rates, **{name: 2 * getattr(rates, name)})
        seconds = plan(Grok1(GROK_1), faster, n_tokens=tokens)[1].seconds_per_pass
        assert seconds is not None and seconds <= found.seconds_per_pass


@pytest.mark.parametrize("name", ["read_bytes_per_s", "products_bytes_per_s", "flops"])
def test_without_a_rate_no_time_is_given(name):
    streamed = plan(Grok1(GROK_1), replace(LAPTOP, **{name: None}))[1]
    assert streamed.seconds_per_pass is None and streamed.seconds_per_token is None
    assert streamed.binds == streamed.token_binds == "not measured"
    assert streamed.fits and streamed.read_bytes_per_pass > 0


def test_a_resident_token_uses_the_devices_that_hold_its_experts():
    """Two of eight, so four times the bandwidth of eight is not there."""
    one = replace(SERVER, n_devices=1)
    alone, together = plan(Grok1(GROK_1), one)[0], plan(Grok1(GROK_1), SERVER)[0]
    assert alone.seconds_per_token is not None and together.seconds_per_token is not None
    assert alone.seconds_per_token == pytest.approx(2 * together.seconds_per_token)
    assert together.token_binds == "memory bandwidth"
    long = [
        plan(Grok1(GROK_1), rates, n_tokens=2048)[0].seconds_per_pass for rates in (one, SERVER)
    ]
    assert long[0] == pytest.approx(8 * long[1], rel=1e-6)


# --- what fits, and the choice --------------------------------------------------------------


def test_a_small_machine_streams_grok_1_and_says_why():
    decision = choose(Grok1(GROK_1), LAPTOP)
    assert decision.mode == decision.chosen.mode == "streamed"
    assert decision.why == (
        "The weights take 318 GB and this machine has 23 GB free, so layers are streamed from "
        "disk: about 5 min for a prompt of 64 tokens (an estimate), limited by the disk "
        "(1.0 GB/s)."
    )
    assert [each.mode for each in decision.plans] == ["resident", "streamed"]
    assert [each.fits for each in decision.plans] == [False, True]
    assert smallest_budget(Grok1(GROK_1), 64) < decision.chosen.memory_bytes <= DEFAULT_BUDGET


def test_eight_large_gpus_hold_grok_1():
    decision = choose(Grok1(GROK_1), SERVER)
    assert decision.mode == "resident"
    assert "take 318 GB and 8 x NVIDIA H100 hold 640 GB" in decision.why


def test_a_small_model_is_resident_on_any_machine():
    assert choose(Grok1(TINY), LAPTOP).mode == "resident"
    assert (
        "this machine has 23 GB free, so all of them are held there"
        in choose(Grok1(TINY), LAPTOP).why
    )


def test_the_budget_is_of_streaming_and_does_not_keep_a_model_that_fits_from_being_held():
    config = replace(GROK_1, n_layers=3)  # 18 GB
    assert choose(Grok1(config), LAPTOP, memory_budget=8 * GB).mode == "resident"
    assert choose(Grok1(GROK_1), SERVER, memory_budget=8 * GB).mode == "resident"


def test_an_unmeasured_disk_leaves_the_choice_and_says_so():
    rates = replace(LAPTOP, read_bytes_per_s=None, read_from="The disk was not measured: no room.")
    decision = choose(Grok1(GROK_1), rates)
    assert decision.mode == "streamed"
    assert decision.why.endswith("streamed from disk. The disk was not measured: no room.")


def test_a_budget_too_small_is_refused_with_one_that_works():
    with pytest.raises(DeviceError, match="The budget is 1.0 GB; streaming needs") as refused:
        choose(Grok1(GROK_1), LAPTOP, memory_budget=1 * GB)
    named = re.search(r"Give a memory budget of ([\d.]+) GB or more", str(refused.value))
    assert named is not None
    enough = int(float(named[1]) * GB)
    assert enough - smallest_budget(Grok1(GROK_1)) < 1e8
    assert choose(Grok1(GROK_1), LAPTOP, memory_budget=enough).mode == "streamed"


def test_a_machine_without_free_memory_is_refused_with_what_is_free():
    with pytest.raises(
        DeviceError, match=r"Streaming takes \d\.\d GB of memory and 3\.0 GB is free"
    ):
        choose(Grok1(GROK_1), replace(LAPTOP, memory_bytes=3 * GB, device_bytes=3 * GB))


def test_devices_too_small_for_all_layers_keep_some_and_read_the_others():
    one = replace(SERVER, n_devices=1, device_bytes=140 * GB, devices="1 x NVIDIA H200")
    decision = choose(Grok1(GROK_1), one)
    found = decision.chosen
    assert decision.mode == "streamed" and found.fits
    stay = fit(Grok1(GROK_1), 140 * GB)
    assert 10 < stay < 30 and f"{stay} of 64 layers stay" in found.why
    assert found.read_bytes_per_pass == (64 - stay) * layer_bytes(Grok1(GROK_1))
    assert found.read_bytes_per_token == found.read_bytes_per_pass  # whole layers, as resident
    assert found.memory_bytes <= 140 * GB
    assert found.seconds_per_pass == pytest.approx(found.read_bytes_per_pass / 1e9, rel=0.05)
    assert "1 x NVIDIA H200 hold 140 GB, so layers are streamed from disk" in decision.why


def test_devices_too_small_for_two_layers_are_refused_with_what_is_needed():
    small = replace(SERVER, n_devices=1, device_bytes=8 * GB, devices="1 x small")
    with pytest.raises(DeviceError, match=r"The devices have 8\.0 GB together.* they need \d"):
        choose(Grok1(GROK_1), small)
    needed = plan(Grok1(GROK_1), small)[1].smallest_bytes
    assert choose(Grok1(GROK_1), replace(small, device_bytes=needed)).mode == "streamed"


def test_what_binds_is_said_with_its_rate():
    found = [limit(name, LAPTOP) for name in ("disk", "arithmetic", "memory bandwidth")]
    assert found == [
        "the disk (1.0 GB/s)",
        "arithmetic (200 GFLOP/s)",
        "memory bandwidth (4.0 GB/s of weights)",
    ]
    assert limit("arithmetic", SERVER) == "arithmetic (100,000 GFLOP/s on one device)"


@pytest.mark.parametrize("tokens", [1, 64, 2048])
def test_streaming_takes_no_more_than_the_budget_and_more_of_it_with_more_budget(tokens):
    smallest = smallest_budget(Grok1(GROK_1), tokens)
    taken = [streamed_bytes(Grok1(GROK_1), budget, tokens) for budget in (smallest, 6 * GB, 8 * GB)]
    assert taken == sorted(taken) and taken[0] < taken[2]
    assert taken[0] <= smallest and taken[1] <= 6 * GB and taken[2] <= 8 * GB


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"n_tokens": 0}, "number of tokens is 0; expected 1 or more"),
        ({"n_tokens": -3}, "number of tokens is -3"),
        ({"memory_budget": 0}, "memory budget is 0 bytes; expected a positive"),
    ],
)
def test_impossible_numbers_are_refused(given, says):
    with pytest.raises(GrokError, match=says):
        plan(Grok1(GROK_1), LAPTOP, **given)


# --- for the reader ---------------------------------------------------------------------------


def test_sizes_and_durations_are_given_in_units_that_suit_them():
    assert [size(n) for n in (318.2e9, 4.92e9, 12.6e6)] == ["318 GB", "4.9 GB", "12.6 MB"]
    found = [duration(s) for s in (0.003, 0.25, 9.6, 42, 318, 20_000)]
    assert found == ["less than 0.1 s", "0.2 s", "9.6 s", "42 s", "5 min", "5.6 h"]


def test_longer_times_never_read_as_shorter():
    units = {"s": 1, "min": 60, "h": 3600}
    times = [0.1 * 1.05**i for i in range(260)]
    read = [duration(t).replace(",", "").split() for t in times]
    seconds = [float(number) * units[unit] for number, unit in read]
    assert all(later >= 0.97 * sooner for sooner, later in itertools.pairwise(seconds))
    assert np.allclose(seconds, times, rtol=0.5)
