"""What goes on after it was ended: saved values, edits that read others, generation, many prompts.

Each is ended in mid-pass by its watcher, taken up again, and has the bits of one that never was.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from grok.engine.progress import PassProgress, watching
from grok.errors import GrokError
from grok.interventions.kinds import ban
from grok.runner import loading as runner
from grok.runner.batching import trace_together
from grok.streaming import resume
from tests.grok.streamed import PROMPT, After, copied, layers_read, same_bits, streamed

PROMPTS = [PROMPT, PROMPT[::-1] * 2, [9, 8, 7]]


class Crash(Exception):
    """Ends a pass from within."""


def crash() -> None:
    raise Crash


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied("tiny12", tmp_path_factory.mktemp("model"))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


@pytest.fixture
def model(folder: Path, kept: Path) -> runner.Model:
    """Keeps its state."""
    return streamed(folder, resume=kept)


@pytest.fixture(scope="module")
def plain(folder: Path) -> runner.Model:
    """Keeps nothing."""
    return streamed(folder)


def ended(run: Callable[[], object], layers: int) -> None:
    with pytest.raises(Crash), watching(After(layers, crash)):
        run()


def state_files(kept: Path) -> list[str]:
    return [file.name for file in kept.rglob("*") if file.is_file()] if kept.exists() else []


def test_saved_values_of_layers_before_the_crash_come_back(
    model: runner.Model, plain: runner.Model
) -> None:
    def saved(one: runner.Model) -> list[np.ndarray]:
        with one.trace(PROMPT) as t:
            places = [t.embed.save(), t.layers[2].resid_post.save(), t.layers[9].moe.output.save()]
            places.append(t.layers[2].moe.contribution.save(positions=-1))
            places.append(t.norm.output.save())
        return [place.value for place in places]

    ended(lambda: saved(model), 6)
    found = saved(model)
    assert layers_read(model) == list(range(6, 12))
    for one, other in zip(found, saved(plain), strict=True):
        assert one.dtype == other.dtype and one.tobytes() == other.tobytes()


def test_an_edit_after_the_crash_reads_a_place_before_it(
    model: runner.Model, plain: runner.Model
) -> None:
    def edited(one: runner.Model):
        with one.trace(PROMPT) as t:
            t.layers[1].router.logits.edit(ban(3))
            t.layers[10].resid_pre = t.layers[1].resid_post
            t.layers[11].moe.output = t.embed
        return t.routing

    ended(lambda: edited(model), 6)
    found = edited(model)
    assert layers_read(model) == list(range(6, 12))
    assert same_bits(found, edited(plain))
    assert not np.array_equal(found.router_logits, plain.trace_routing(PROMPT).router_logits)


def test_a_pass_whose_edit_is_anybodys_function_starts_over_and_keeps_nothing(
    model: runner.Model, plain: runner.Model, kept: Path
) -> None:
    def edited(one: runner.Model, factor: float):
        with one.trace(PROMPT) as t:
            t.layers[1].resid_post.edit(lambda x: x * factor)
        return t.routing

    ended(lambda: edited(model, 2.0), 6)
    assert state_files(kept) == []
    assert same_bits(edited(model, 3.0), edited(plain, 3.0))
    assert layers_read(model) == list(range(12))


def test_a_generation_that_was_ended_while_it_read_its_prompt_gives_the_same_tokens(
    model: runner.Model, plain: runner.Model, kept: Path
) -> None:
    def generated(one: runner.Model):
        return one.generate(PROMPT, max_new_tokens=3, candidates=3)

    ended(lambda: generated(model), 7)
    assert state_files(kept)
    told: list[PassProgress] = []
    with watching(told.append):
        found = generated(model)
    assert told[0].layer >= 7
    whole = generated(plain)
    assert found.new_tokens == whole.new_tokens
    assert same_bits(found.trace, whole.trace)
    assert state_files(kept) == []


def test_a_generation_that_was_ended_at_its_second_token_gives_the_same_tokens(
    model: runner.Model, plain: runner.Model
) -> None:
    steps = model.stream(PROMPT, max_new_tokens=3, candidates=3)
    next(steps)
    ended(lambda: next(steps), 5)
    found = model.generate(PROMPT, max_new_tokens=3, candidates=3)
    whole = plain.generate(PROMPT, max_new_tokens=3, candidates=3)
    assert found.new_tokens == whole.new_tokens
    assert same_bits(found.trace, whole.trace)


def test_prompts_that_go_together_go_on_together(
    model: runner.Model, plain: runner.Model, kept: Path
) -> None:
    whole = trace_together(plain, PROMPTS)
    ended(lambda: trace_together(model, PROMPTS), 8)
    found = trace_together(model, PROMPTS)
    assert layers_read(model) == list(range(8, 12))
    assert all(same_bits(a, b) for a, b in zip(found, whole, strict=True))
    ended(lambda: trace_together(model, PROMPTS), 8)
    other = trace_together(model, [PROMPTS[1], PROMPTS[0], PROMPTS[2]])
    assert layers_read(model) == list(range(12))  # another order is another pass
    assert same_bits(other[0], whole[1]) and same_bits(other[1], whole[0])
    assert state_files(kept)  # that of the first order still waits


def test_a_pass_that_was_ended_after_its_last_layer_reads_no_layer_again(
    model: runner.Model, plain: runner.Model
) -> None:
    ended(lambda: model.trace_routing(PROMPT), 12)
    found = model.trace_routing(PROMPT)
    assert layers_read(model) == []
    assert same_bits(found, plain.trace_routing(PROMPT))


@pytest.mark.parametrize("which", ["stream.state", "layer-00000.state", "layer-00005.state"])
@pytest.mark.parametrize("lost", [True, False], ids=["lost", "damaged"])
def test_one_file_lost_or_damaged_is_enough_to_start_over(
    model: runner.Model, plain: runner.Model, kept: Path, which: str, lost: bool
) -> None:
    ended(lambda: model.trace_routing(PROMPT), 6)
    (file,) = kept.rglob(which)
    content = file.read_bytes()
    if lost:
        file.unlink()
    else:
        file.write_bytes(content[:40] + bytes([content[40] ^ 1]) + content[41:])
    found = model.trace_routing(PROMPT)
    assert layers_read(model) == list(range(12))
    assert same_bits(found, plain.trace_routing(PROMPT))
    assert state_files(kept) == []


def test_a_full_disk_ends_the_pass_in_words_and_what_was_kept_before_is_used(
    model: runner.Model, plain: runner.Model, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = resume.write_whole, []

    def filling(file: Path, content: bytes) -> None:
        if len(written) >= 9:  # in mid-layer: its own file is there, the streams' is not
            raise OSError(28, "No space left on device")
        written.append(file)
        write(file, content)

    monkeypatch.setattr(resume, "write_whole", filling)
    with pytest.raises(GrokError, match=r"No space left on device.*Free space"):
        model.trace_routing(PROMPT)
    monkeypatch.undo()
    found = model.trace_routing(PROMPT)
    assert layers_read(model) == list(range(4, 12))
    assert same_bits(found, plain.trace_routing(PROMPT))
