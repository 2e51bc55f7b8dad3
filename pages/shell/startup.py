"""What the command line or the environment names when the app starts."""

from __future__ import annotations

import argparse
import os
import sys


def startup_options(**variables: str) -> dict[str, str | None]:
    """Options after `--` on the command line, else the environment variables of the same meaning.

    Args:
        variables: for each option, such as `trace_labels` for `--trace-labels`, the name of its
            environment variable.

    Returns:
        The value of each option, None where neither names one. A command line that cannot be
        read counts as empty.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in variables:
        parser.add_argument(f"--{option.replace('_', '-')}")
    try:
        given = vars(parser.parse_known_args(sys.argv[1:])[0])
    except argparse.ArgumentError:
        given = {}
    return {
        option: given.get(option) or os.environ.get(variable) or None
        for option, variable in variables.items()
    }
