"""`python -m tests.fuzz --minutes 60`: new hostile input for every door, for so long.

What is found is shown with the smallest input that does it; mend it, and give it a test of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
PAGES = 5  # whose addresses are tried too


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="of processor time, in all")
    parser.add_argument("--door", help="only doors whose name has this in it")
    options, rest = parser.parse_known_args()
    from tests.fuzz.doors import DOORS

    doors = [name for name in DOORS if not options.door or options.door in name]
    shares = len(doors) or 1 if options.door else len(doors) + PAGES
    os.environ["FUZZ_SECONDS"] = str(60 * options.minutes / shares)
    chosen = ["-k", " and ".join(options.door.split())] if options.door else []
    places = [HERE, HERE.parent / "pages" / "test_hostile_addresses.py"]
    command = ["-m", "pytest", *map(str, places), "-q", "-p", "no:cacheprovider", *chosen, *rest]
    return subprocess.call([sys.executable, *command])


if __name__ == "__main__":
    sys.exit(main())
