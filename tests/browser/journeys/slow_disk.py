"""Streamlit's command, with a disk that takes its time: every read of a streamed model waits.

As long as the file is there that HOLD_READS names, reads don't come back at all.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

SECONDS = 0.024  # before each read, of which two wait at a time

HOLD = "HOLD_READS"

real = os.preadv


def slow(*arguments: Any) -> int:
    if threading.current_thread().name.startswith("read-ahead"):
        time.sleep(SECONDS)
        while os.path.exists(os.environ[HOLD]):
            time.sleep(SECONDS)
    return real(*arguments)


if __name__ == "__main__":
    from streamlit.web.cli import main

    sys.path.insert(0, os.getcwd())
    from grok.serving import shared_model

    os.preadv = slow
    shared_model.STREAMED.timeout = 3600.0  # a busy machine makes a slow disk slower still
    sys.exit(main())
