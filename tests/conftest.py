"""What takes longest comes first, so that two workers end at about the same time."""

from __future__ import annotations

from pathlib import Path

import pytest

LONGEST = ("test_streamed_journey.py", "test_examples.py", "test_calibration.py")
FIRST = ("browser", "pages")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders files, not the tests within them."""

    def place(item: pytest.Item) -> int:
        file = Path(item.path)
        if file.name in LONGEST:
            return 0
        folder = file.parent.name
        return 1 + FIRST.index(folder) if folder in FIRST else 1 + len(FIRST)

    items.sort(key=place)
