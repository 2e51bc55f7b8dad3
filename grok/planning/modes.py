"""Memory and time that each way of running a model takes on a machine, and which is chosen.

Nothing is read, allocated or timed here. Times are estimates: they rest on the rates of
`grok.planning.machine` and on the assumptions of `grok.planning.costs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from grok.errors import DeviceError, GrokError
from grok.planning.costs import (
    ARITHMETIC,
    BANDWIDTH,
    DISK,
    UNKNOWN,
    Speeds,
    Work,
    bytes_read,
    bytes_touched,
    distinct_experts,
    expert_bytes,
    expert_pass_work,
    head_operations,
    layer_bytes,
    pass_seconds,
    pass_work,
    read_layer_bytes,
)
from grok.planning.machine import Rates
from grok.streaming.by_expert.memory import (
    expert_sizes,
    fixed_bytes,
    largest_piece,
    most_expert_rows,
    smallest_expert_budget,
)
from grok.streaming.by_expert.memory import working as expert_working
from grok.streaming.device_memory import ON_DEVICES, fit, other_bytes
from grok.streaming.device_memory import layer_bytes as held_bytes
from grok.streaming.host_memory import (
    DEFAULT_BUDGET,
    PROCESS,
    most_tokens,
    sizes,
    smallest_budget,
    usual_tokens,
)
from grok.streaming.read_ahead import BLOCK
from grok.units import duration, size

if TYPE_CHECKING:
    from grok.architectures.architecture import Architecture

__all__ = [
    "DEFAULT_BUDGET",
    "UNKNOWN",
    "Decision",
    "ModePlan",
    "choose",
    "head_operations",
    "limit",
    "most_rows",
    "plan",
    "streamed_bytes",
]


@dataclass(frozen=True)
class ModePlan:
    """What one way of running a model takes.

    Attributes:
        mode: "resident" or "streamed".
        fits: whether it works here, within the budget.
        memory_bytes: peak memory: of accelerators where there are any, else of the process.
        smallest_bytes: the least memory with which it works at all.
        read_bytes_per_pass: from disk, for one pass over a prompt.
        seconds_per_pass: None where a rate that it rests on was not measured.
        read_bytes_per_token: from disk, for each generated token.
        seconds_per_token: as `seconds_per_pass`.
        weight_bytes_per_token: of the weights that each generated token passes through.
        binds: what limits a pass: "disk", "arithmetic", "memory bandwidth" or "not measured".
        token_binds: what limits a generated token.
        why: one sentence on memory and on what binds.
    """

    mode: str
    fits: bool
    memory_bytes: int
    smallest_bytes: int
    read_bytes_per_pass: int = 0
    seconds_per_pass: float | None = None
    read_bytes_per_token: int = 0
    seconds_per_token: float | None = None
    weight_bytes_per_token: int = 0
    binds: str = UNKNOWN
    token_binds: str = UNKNOWN
    why: str = ""


@dataclass(frozen=True)
class Decision:
    """Which mode was chosen, why (for a reader), and all that was weighed."""

    mode: str
    why: str
    plans: list[ModePlan]

    @property
    def chosen(self) -> ModePlan:
        """The plan of the chosen mode."""
        return next(plan for plan in self.plans if plan.mode == self.mode)


def plan(
    architecture: Architecture,
    rates: Rates,
    *,
    n_tokens: int = 64,
    memory_budget: int = DEFAULT_BUDGET,
) -> list[ModePlan]:
    """What each mode takes for a prompt of `n_tokens`, and for each token generated after it.

    Args:
        architecture: the model.
        rates: of the machine.
        n_tokens: of the prompt, or of all prompts that share one pass.
        memory_budget: bytes that the program may take when it streams.

    Raises:
        GrokError: a number of tokens or a budget that is not positive.
    """
    if n_tokens < 1:
        raise GrokError(f"The number of tokens is {n_tokens}; expected 1 or more.")
    if memory_budget < 1:
        raise GrokError(f"The memory budget is {memory_budget} bytes; expected a positive number.")
    streamed = _streamed if rates.on_cpu else _through_devices
    return [
        _resident(architecture, rates, n_tokens),
        streamed(architecture, rates, n_tokens, memory_budget),
    ]


def _made(
    plan: ModePlan,
    n_tokens: int,
    work: Callable[[int], list[Work]],
    speeds: Callable[[int], Speeds],
) -> ModePlan:
    """The plan with what is read and how long it takes, for a pass and for a generated token.

    Args:
        plan: all but that.
        n_tokens: of the pass.
        work: of a pass of so many tokens.
        speeds: at which it is done.
    """
    one_pass, token = work(n_tokens), work(1)
    seconds, binds = pass_seconds(one_pass, speeds(n_tokens))
    token_seconds, token_binds = pass_seconds(token, speeds(1))
    return replace(
        plan,
        read_bytes_per_pass=bytes_read(one_pass),
        seconds_per_pass=seconds,
        binds=binds,
        read_bytes_per_token=bytes_read(token),
        seconds_per_token=token_seconds,
        weight_bytes_per_token=bytes_touched(token),
        token_binds=token_binds,
    )


def _resident(architecture: Architecture, rates: Rates, n_tokens: int) -> ModePlan:
    from grok.engine.sharding import memory_needed  # imports JAX

    needed, there = memory_needed(architecture), rates.device_bytes
    where = "is free" if rates.on_cpu else "is on the devices"
    verdict = "fits" if needed <= there else "does not fit"
    why = f"All weights at once take {size(needed)} and {size(there)} {where}: it {verdict}."
    return _made(
        ModePlan("resident", needed <= there, needed, needed, why=why),
        n_tokens,
        lambda n: pass_work(architecture, n, read_layers=0, layer_reads=0, outer_read=False),
        lambda n: _device_speeds(architecture, rates, n),
    )


def _device_speeds(architecture: Architecture, rates: Rates, n_tokens: int) -> Speeds:
    """Of all devices that have work: an expert lies whole on one, so few tokens use few."""
    columns = math.gcd(rates.n_devices, architecture.config.n_experts)
    busy = min(columns, distinct_experts(architecture.config, n_tokens))
    weights, operations = rates.resident_bytes_per_s, rates.resident_flops
    return Speeds(
        rates.read_bytes_per_s,
        None if weights is None else weights * busy,
        None if operations is None else operations * busy * (rates.n_devices // columns),
    )


def _streamed(architecture: Architecture, rates: Rates, n_tokens: int, budget: int) -> ModePlan:
    """Layers pass through buffers of this machine's memory, and its processor computes."""
    tokens = max(n_tokens, usual_tokens(architecture.config))  # what opening a model allows for
    smallest = _smallest(architecture, tokens)
    memory = streamed_bytes(architecture, max(budget, smallest), n_tokens)

    def work(n: int) -> list[Work]:
        if architecture.by_expert:
            after = n == 1 != n_tokens  # a token after the prompt, whose weights are held in part
            held = _held(architecture, max(budget, smallest), tokens) if after else (0.0, 0.0)
            return expert_pass_work(architecture, n, *held)
        return pass_work(
            architecture,
            n,
            read_layers=architecture.config.n_layers,
            layer_reads=read_layer_bytes(architecture, n),
            outer_read=True,
        )

    made = _made(
        ModePlan("streamed", smallest <= budget and memory <= rates.memory_bytes, memory, smallest),
        n_tokens,
        work,
        lambda n: Speeds(rates.read_bytes_per_s, rates.products_bytes_per_s, rates.flops),
    )
    if budget < smallest:
        why = (
            f"The budget is {size(budget)}; streaming needs at least {size(smallest)} "
            f"for prompts of up to {tokens:,} tokens. Give a memory budget of "
            f"{_least(smallest)} GB or more."
        )
    elif memory > rates.memory_bytes:
        why = (
            f"Streaming takes {size(memory)} of memory and {size(rates.memory_bytes)} is free. "
            f"Free some, or give a smaller memory budget, of {_least(smallest)} GB or more."
        )
    else:
        what = "One layer at a time is read from disk and takes"
        if architecture.by_expert:
            what = "Of a layer the chosen experts are read from disk; with those that stay it takes"
        why = f"{what} {size(memory)} of memory"
        why += f"; {limit(made.binds, rates)} limits it." if made.binds != UNKNOWN else "."
    return replace(made, why=why)


def _through_devices(
    architecture: Architecture, rates: Rates, n_tokens: int, _budget: int
) -> ModePlan:
    """As many layers as fit stay on the accelerators, and the others pass through them."""
    tokens = max(n_tokens, usual_tokens(architecture.config))
    other, one = other_bytes(architecture, tokens), held_bytes(architecture)
    smallest = other + ON_DEVICES * one
    try:
        stay, why = fit(architecture, rates.device_bytes, tokens), ""
    except DeviceError as error:
        stay, why = 0, str(error)
    n_layers = architecture.config.n_layers
    n_passing = n_layers - stay
    made = _made(
        ModePlan("streamed", not why, other + (stay + min(ON_DEVICES, n_passing)) * one, smallest),
        n_tokens,
        lambda n: pass_work(
            architecture,
            n,
            read_layers=n_passing,
            layer_reads=layer_bytes(architecture),
            outer_read=False,
        ),
        lambda n: _device_speeds(architecture, rates, n),
    )
    if not why:
        why = (
            f"{stay} of {n_layers} layers stay on the devices and the others pass through "
            "them from disk in every pass"
        )
        why += f"; {limit(made.binds, rates)} limits it." if made.binds != UNKNOWN else "."
    return replace(made, why=why)


def streamed_bytes(architecture: Architecture, budget: int, n_tokens: int) -> int:
    """Peak memory of the whole process when it streams, by its own reckoning.

    Raises:
        DeviceError: the budget is too small.
    """
    if architecture.by_expert:
        piece = largest_piece(architecture)
        own = expert_sizes(architecture, budget, piece, n_tokens)
        kept = min(own.cache, _experts(architecture) + sum(fixed_bytes(architecture)))
        buffers = own.n_buffers * (piece + 2 * BLOCK)
        return PROCESS + expert_working(architecture, n_tokens) + buffers + kept
    parts = sizes(architecture, budget, n_tokens)
    return PROCESS + parts.working + parts.n_buffers * (parts.piece_bytes + 2 * BLOCK)


def most_rows(architecture: Architecture, budget: int, *, logits: bool = False) -> int:
    """The most rows that a streamed pass can have within a budget."""
    if architecture.by_expert:
        return most_expert_rows(architecture, budget, largest_piece(architecture), logits=logits)
    return most_tokens(architecture, budget, logits=logits)


def _smallest(architecture: Architecture, n_tokens: int) -> int:
    if architecture.by_expert:
        return smallest_expert_budget(architecture, largest_piece(architecture), n_tokens)
    return smallest_budget(architecture, n_tokens)


def _experts(architecture: Architecture) -> int:
    """Bytes of all experts of all layers."""
    config = architecture.config
    return len(config.moe_layers) * config.n_experts * expert_bytes(architecture)


def _held(architecture: Architecture, budget: int, n_tokens: int) -> tuple[float, float]:
    """The shares of the experts, and of what layers have beside them, that stay in memory from pass
    to pass."""
    kept = expert_sizes(architecture, budget, largest_piece(architecture), n_tokens).cache
    fixed = sum(fixed_bytes(architecture))
    return min(1.0, max(0, kept - fixed) / _experts(architecture)), min(1.0, kept / fixed)


# --- the choice -----------------------------------------------------------------------------


def choose(
    architecture: Architecture,
    rates: Rates,
    *,
    n_tokens: int = 64,
    memory_budget: int = DEFAULT_BUDGET,
) -> Decision:
    """Resident where all weights fit, streamed where they don't; with the reason in words.

    Raises:
        DeviceError: neither fits; the text names the least memory that works.
        GrokError: as `plan`.
    """
    plans = plan(architecture, rates, n_tokens=n_tokens, memory_budget=memory_budget)
    resident, streamed = plans
    needed = size(resident.memory_bytes)
    if resident.fits:
        why = f"The weights take {needed} and {room(rates)}, so all of them are held there."
        return Decision("resident", why, plans)
    if not streamed.fits:
        raise DeviceError(f"This model's weights take {needed} and {room(rates)}. {streamed.why}")
    why = f"The weights take {needed} and {room(rates)}, so layers are streamed from disk"
    if streamed.seconds_per_pass is None:
        return Decision("streamed", f"{why}. {rates.read_from}".strip(), plans)
    why += (
        f": about {duration(streamed.seconds_per_pass)} for a prompt of {n_tokens:,} "
        f"token{'s' if n_tokens > 1 else ''} (an estimate), limited by "
        f"{limit(streamed.binds, rates)}."
    )
    return Decision("streamed", why, plans)


def _least(n_bytes: int) -> float:
    """GB rounded up, so that the number given is enough."""
    return math.ceil(n_bytes / 1e8) / 10


def room(rates: Rates) -> str:
    """What there is, as half a sentence."""
    if rates.on_cpu:
        return f"this machine has {size(rates.device_bytes)} free"
    return f"{rates.devices} hold {size(rates.device_bytes)}"


def limit(binds: str, rates: Rates) -> str:
    """What binds, with its measured rate: of the processor, or of one accelerator."""
    weights = rates.products_bytes_per_s if rates.on_cpu else rates.resident_bytes_per_s
    operations = rates.flops if rates.on_cpu else rates.resident_flops
    where = "" if rates.on_cpu else " on one device"
    if binds == DISK and rates.read_bytes_per_s:
        return f"the disk ({rates.read_bytes_per_s / 1e9:.1f} GB/s)"
    if binds == ARITHMETIC and operations:
        return f"arithmetic ({operations / 1e9:,.0f} GFLOP/s{where})"
    if binds == BANDWIDTH and weights:
        return f"memory bandwidth ({weights / 1e9:,.1f} GB/s of weights{where})"
    return binds
