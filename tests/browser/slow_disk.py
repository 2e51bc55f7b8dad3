"""Streamlit's command, with a disk that takes its time: every read of a streamed model waits."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

SECONDS = 0.012  # before each read

real = os.preadv


def slow(*arguments: Any) -> int:
    if threading.current_thread().name == "read-ahead":
        time.sleep(SECONDS)
    return real(*arguments)


if __name__ == "__main__":
    from streamlit.web.cli import main

    os.preadv = slow
    sys.exit(main())
