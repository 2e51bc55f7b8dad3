"""Questions to the Parquet files of a run, asked with DuckDB.

Each question has a connection of its own, in memory, that may read the run's folder and
nothing else: no other file, no network, no extension, no change of these settings. All
values are bound; no text of a user becomes part of a statement. Only files that are whole
are read, so a run that is being written is neither disturbed nor waited for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lens.errors import LensError
from lens.many_prompts.run_record import NoRunError, Run

MEMORY = "512MB"
THREADS = 2


def ask(run: Run, statement: str, **values: Any) -> dict[str, np.ndarray]:
    """The columns of the answer, by name.

    Args:
        statement: SQL; `$routing`, `$tokens` and `$prompts` stand for the run's files, as in
            `FROM read_parquet($routing)`.
        values: what the statement's other parameters stand for.

    Raises:
        NoRunError: the run was deleted meanwhile.
        LensError: it has no events yet, or its files cannot be read.
    """
    import duckdb

    files = {
        "routing": [str(file) for file in run.routing_files],
        "tokens": [str(run.events / "tokens.parquet")],
        "prompts": [str(run.events / "prompts.parquet")],
    }
    if not files["routing"]:
        if not run.folder.is_dir():
            raise NoRunError("This run has been deleted.")
        raise LensError("This run has no routing yet. Wait until it is finished.")
    named = {name: found for name, found in files.items() if f"${name}" in statement}
    try:
        with duckdb.connect(
            ":memory:",
            config={
                "threads": THREADS,
                "memory_limit": MEMORY,
                "temp_directory": "",
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        ) as connection:
            connection.execute("SET allowed_directories = ?", [[str(run.events)]])
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            found = connection.execute(statement, named | values).fetchnumpy()
    except (duckdb.IOException, duckdb.InvalidInputException, duckdb.BinderException) as error:
        if not run.folder.is_dir():
            raise NoRunError("This run has been deleted.") from error
        raise LensError(
            f"The files of this run cannot be read ({str(error).splitlines()[0]:.120}). Delete "
            "the run and start it again."
        ) from error
    except duckdb.OutOfMemoryException as error:
        raise LensError(
            f"This run is too large for the {MEMORY} that a question may take. Run fewer prompts."
        ) from error
    return {name: np.ma.getdata(column) for name, column in found.items()}
