"""Questions to the Parquet files of a run, asked with DuckDB.

A connection may read one run's folder and nothing else. All values are bound; no text of a user
becomes part of a statement. Only files that are whole are read, so a run that is being written is
neither disturbed nor waited for. Each is read through once before it is asked; one that is damaged
is set aside, and the run says so.
"""

from __future__ import annotations

import errno
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from grok.errors import plain
from grok.files import set_aside
from lens.errors import LensError
from lens.many_prompts.run_record import NoRunError, Run
from lens.storage.parquet_questions import MEMORY, asking


class DamagedRunError(LensError):
    """A file of a run is damaged; it has been set aside, and the run can go on without it."""


def ask(run: Run, statement: str, **values: Any) -> dict[str, np.ndarray]:
    """The columns of the answer, by name.

    Args:
        statement: SQL; `$routing`, `$tokens` and `$prompts` stand for the run's files, as in
            `FROM read_parquet($routing)`.
        values: what the statement's other parameters stand for.

    Raises:
        NoRunError: the run was deleted meanwhile.
        DamagedRunError: a file was damaged, and is set aside now.
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
    for file in [Path(str(one)) for found in named.values() for one in found]:
        _check_whole(run, file)
    try:
        with asking(run.events) as cursor:
            found = cursor.execute(statement, named | values).fetchnumpy()
    except duckdb.OutOfMemoryException as error:
        raise LensError(
            f"This run is too large for the {MEMORY} that a question may take. Run fewer prompts."
        ) from error
    except duckdb.PermissionException:  # a statement of the program's own asks for too much
        raise
    except duckdb.Error as error:
        if not run.folder.is_dir():
            raise NoRunError("This run has been deleted.") from error
        raise LensError(
            f"The files of this run cannot be read ({plain(str(error), 120)}). Delete the run and "
            "start it again."
        ) from error
    return {name: np.ma.getdata(column) for name, column in found.items()}


def layer_numbers(run: Run) -> np.ndarray:
    """The model's numbers of the layers with experts, rising; their places are rows elsewhere.

    One prompt is asked, since each goes through all of them.

    Raises:
        NoRunError, DamagedRunError, LensError: as for `ask`.
    """
    found = ask(
        run,
        "SELECT DISTINCT layer FROM read_parquet($routing) "
        "WHERE prompt = (SELECT min(prompt) FROM read_parquet($routing)) ORDER BY layer",
    )
    return found["layer"].astype(np.int64)


def check_files(run: Run) -> None:
    """Refuses a run of which a file is damaged or gone, before anything of it is shown.

    Raises:
        NoRunError, DamagedRunError, LensError: as for `ask`.
    """
    for file in [run.events / "prompts.parquet", run.events / "tokens.parquet", *run.routing_files]:
        _check_whole(run, file)


def _check_whole(run: Run, file: Path) -> None:
    """Reads a file once, as long as it is the same; sets it aside where that fails.

    Raises:
        NoRunError: the run was deleted meanwhile.
        DamagedRunError: the file is damaged or gone.
    """
    try:
        found = file.stat()
        _read_through(str(file), found.st_size, found.st_mtime_ns, found.st_ino)
        return
    except FileNotFoundError as error:
        if not run.folder.is_dir():
            raise NoRunError("This run has been deleted.") from error
        why = "is not there"
    except Exception as error:  # pyarrow raises a dozen kinds for damaged bytes
        if not run.folder.is_dir():
            raise NoRunError("This run has been deleted.") from error
        number = error.errno if isinstance(error, OSError) else None
        if isinstance(error, MemoryError) or number not in (None, errno.EIO):  # not the file's own
            raise LensError(
                f"The files of this run cannot be read now ({plain(str(error), 120)}). Try again "
                "later, or ask who runs the server."
            ) from error
        set_aside(file)
        why = "was damaged and has been set aside"
    raise DamagedRunError(
        f"A file of this run ({file.name}) {why}. The others are whole: let the run go on, and "
        "only what was in that file is run again."
    )


@lru_cache(maxsize=4096)
def _read_through(file: str, size: int, modified: int, inode: int) -> None:
    """Reads all pages of a Parquet file, held against their checksums where they have them."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(file, page_checksum_verification=True) as opened:
        for _ in opened.iter_batches():
            pass
