"""Every example runs and says what it promises."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from grok.config import BUNDLED_MODEL

ROOT = Path(__file__).resolve().parents[1]
SMALL = ROOT / "tests" / "data" / "tiny12"

# A line that the example's output must hold, on any model of 12 layers and 8 experts.
SAYS = {
    "routers_quickstart": r"Of 66 pairs, L\d+ and L\d+ are most alike: CKA (\d\.\d{3}), "
    r"(?:not )?more than the directions that all layers share explain \(.*"
    r"layers mixed from all layers \d\.\d{3} ± \d\.\d{3}; q = ",
    "trace_prompt": r"Neighbouring tokens share their first expert in [\d.]+% of cases; "
    r"chance is 12\.5%, the same tokens shuffled give [\d.]+%",
    "generate_with_routing": r"differ by \d\.\d{3}; random splits give \d\.\d{3} "
    r"\(95 % below \d\.\d{3}\), p = [01]\.\d{3}: ",
    "inspect_and_change": r"Without L4·E\d the next token's logits change by up to \d+\.\d{3}; "
    r"without another expert of the layer by \d+\.\d{3} to \d+\.\d{3} \(rank \d of 8",
    "compare_texts": r"They keep \d+\.\d% of their experts; unrelated tokens of the two texts "
    r"share \d+\.\d% \(p = [01]\.\d{3}\)\.",
    "sweep_and_patch": r"go together at [+-]\d\.\d{2}; relabelled experts [+-]\d",
    "steer_generation": r"random:.*\n.* later layers send \d+% of the plain text's tokens "
    r"elsewhere",
    "expert_words": r"\d+ of [\d,]+ pairs of expert and word are beyond chance at q ≤ 0\.05; "
    r"shuffled within prompts \d+\.\nThe surest: L\d+·E\d takes \d+ of \d+ .*"
    r"by chance \d+\.\d, q = ",
    "collect_prompts": r"Loads of prose and python differ by \d\.\d{3} .* labels shuffled over "
    r"prompts \d\.\d{3} \(95 % below \d\.\d{3}\), p = [01]\.\d{3}\.",
    "explain_a_route": r"The dictionary misses \d+% .*\n(?:.*\n)*Of \d+ predicted flips \d+ came "
    r"as predicted when the model ran, of 4 along random directions \d\.\n"
    r"Its graph has \d+ nodes and \d+ links; \d+% of what its nodes are made of is not missed\.",
    "train_features": r"[\d,]+ parameters; of what layer 5's router reads in [\d,]+ other tokens "
    r"\d+\.\d active features of 256 leave \d+% of the variance; as many principal axes \d+%, "
    r"the mean for each token \d+%\.",
    "stream_a_prompt": r"\d MB of layers read in .*\n.*experts a layer alone: \d+\.\d MB\.\n"
    r"Choices equal to the resident model's: (?:100\.0|99\.\d)%",
}

# These run on a small model without a tokenizer too: one reads routers alone, one runs a prompt.
ON_ANY_MODEL = ("routers_quickstart", "trace_prompt")
OTHERS = [name for name in SAYS if name not in ON_ANY_MODEL]

# All examples one after another, each as `python -m examples.NAME` would run it.
RUN = """
import contextlib, io, json, runpy, sys, traceback
names, arguments = json.loads(sys.argv[1])
found = {}
for name in names:
    sys.argv = [name, *arguments]
    said = io.StringIO()
    error = ""
    with contextlib.redirect_stdout(said):
        try:
            runpy.run_module("examples." + name, run_name="__main__", alter_sys=True)
        except BaseException:
            error = traceback.format_exc()
    found[name] = said.getvalue(), error
print(json.dumps(found))
"""


def outputs(names: Iterable[str], *arguments: str) -> dict[str, tuple[str, str]]:
    """What examples print with these arguments, and their errors; one process for all."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps([list(names), arguments])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def on_a_small_model() -> dict[str, tuple[str, str]]:
    return outputs(ON_ANY_MODEL, "--checkpoint", str(SMALL))


@pytest.fixture(scope="module")
def others_on_a_small_model() -> dict[str, tuple[str, str]]:
    return outputs(OTHERS, "--checkpoint", str(SMALL))


@pytest.fixture(scope="module")
def without_arguments() -> dict[str, tuple[str, str]]:
    return outputs(SAYS)


def test_every_example_is_tested() -> None:
    files = {file.stem for file in (ROOT / "examples").glob("*.py")} - {"__init__"}
    assert files == set(SAYS)


@pytest.mark.parametrize("name", ON_ANY_MODEL)
def test_example_prints_its_finding_beside_chance_on_a_small_model(on_a_small_model, name) -> None:
    said, error = on_a_small_model[name]
    assert not error
    assert re.search(SAYS[name], said)


@pytest.mark.repeats
@pytest.mark.parametrize("name", OTHERS)
def test_others_do_so_on_a_small_model_too(others_on_a_small_model, name: str) -> None:
    said, error = others_on_a_small_model[name]
    assert not error
    assert re.search(SAYS[name], said)


@pytest.mark.parametrize("name", SAYS)
def test_every_example_opens_the_checkpoint_that_it_is_told(name: str) -> None:
    text = (ROOT / "examples" / f"{name}.py").read_text()
    assert re.search(r"(?:grok\.load|extract_routers)\(args\.checkpoint", text)


@pytest.mark.skipif(not (BUNDLED_MODEL / "ckpt-0").is_dir(), reason="no bundled model here")
@pytest.mark.parametrize("name", SAYS)
def test_example_needs_no_arguments(without_arguments, name: str) -> None:
    said, error = without_arguments[name]
    assert not error
    assert re.search(SAYS[name], said)


def test_random_routers_are_not_called_alike(on_a_small_model) -> None:
    """The small model is random, so the quickstart must find nothing among its layers."""
    assert (
        "not more than the directions that all layers share"
        in on_a_small_model["routers_quickstart"][0]
    )
