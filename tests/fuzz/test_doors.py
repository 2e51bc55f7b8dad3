"""Nothing that comes from outside is run, hangs, takes the memory, or ends in a traceback.

In the continuous check each door sees a few hundred inputs, the same each time. `python -m
tests.fuzz --minutes 60` gives new ones for so long.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from grok.errors import GrokError
from lens.errors import LensError
from tests.fuzz.doors import DOORS
from tests.fuzz.guard import budget, rounds, watched


@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@pytest.mark.parametrize("name", DOORS)
def test_what_comes_through_a_door_is_taken_or_refused_in_words(name: str) -> None:
    door = DOORS[name]
    long = budget() > 0

    def opened(content: Any) -> None:
        folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        try:
            with watched():
                door.open(content, folder)
        finally:
            shutil.rmtree(folder)

    def round_of(number: int) -> None:
        @settings(
            max_examples=2000 if long else door.examples,
            derandomize=not long,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(door.given)
        def property_holds(content: Any) -> None:
            opened(content)

        (seed(number)(property_holds) if long else property_holds)()

    with tempfile.TemporaryDirectory() as folder:  # imports what is imported late
        try:
            door.open(door.good, Path(folder))
        except (LensError, GrokError):
            assert name.startswith("id of")  # of nothing that is there
    rounds(round_of)
