"""Every example runs from a fresh process and says what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from grok.config import BUNDLED_MODEL

ROOT = Path(__file__).resolve().parents[1]
SMALL = ROOT / "tests" / "data" / "tiny12"

# A line that the example's output must hold, on any model of 12 layers and 8 experts.
SAYS = {
    "routers_quickstart": r"Of 66 pairs, L\d+ and L\d+ are most alike: CKA (\d\.\d{3}), "
    r"(?:not )?more than chance \(one unrelated pair \d\.\d{3}; the largest of 66: \d\.\d{3}",
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
    "stream_a_prompt": r"\d MB of layers read in .*\n.*experts a layer alone: \d+\.\d MB\.\n"
    r"Choices equal to the resident model's: (?:100\.0|99\.\d)%",
}


def output(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{name}"] + list(arguments),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested() -> None:
    files = {file.stem for file in (ROOT / "examples").glob("*.py")} - {"__init__"}
    assert files == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_example_prints_its_finding_beside_chance_on_a_small_model(name: str) -> None:
    assert re.search(SAYS[name], output(name, "--checkpoint", str(SMALL)))


@pytest.mark.skipif(not (BUNDLED_MODEL / "ckpt-0").is_dir(), reason="no bundled model here")
@pytest.mark.parametrize("name", SAYS)
def test_example_needs_no_arguments(name: str) -> None:
    assert re.search(SAYS[name], output(name))


def test_random_routers_are_not_called_alike() -> None:
    """The small model is random, so the quickstart must find nothing among its layers."""
    text = output("routers_quickstart", "--checkpoint", str(SMALL))
    assert "not more than chance" in text
