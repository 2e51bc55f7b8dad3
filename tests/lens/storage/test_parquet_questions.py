"""DuckDB reads the folder that it was opened for, and nothing else."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lens.storage.parquet_questions import asking, reading_alone


@pytest.fixture
def folder(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    for file in (own / "t.parquet", tmp_path / "other.parquet"):
        pq.write_table(pa.table({"a": [1, 2]}), file)
    (tmp_path / "outside.csv").write_text("a\n1\n")
    return own


def test_the_folder_is_read_by_its_own_name_and_through_a_link(folder, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(folder)
    for name in (folder, link):
        with reading_alone(name) as connection:
            found = connection.execute("SELECT sum(a) FROM read_parquet($f)",
                                       {"f": str(name / "t.parquet")}).fetchall()  # fmt: skip
        assert found == [(3,)]


def test_a_kept_connection_reads_what_files_hold_now_and_other_folders_by_their_own(folder):
    def asked(where):
        with asking(where) as cursor:
            return cursor.execute("SELECT sum(a) FROM read_parquet($f)",
                                  {"f": str(folder / "t.parquet")}).fetchone()[0]  # fmt: skip

    assert asked(folder) == 3
    pq.write_table(pa.table({"a": [1, 2, 4]}), folder / "t.parquet")
    assert asked(folder) == 7
    with pytest.raises(duckdb.PermissionException):
        asked(folder.parent / "elsewhere")
    (folder / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(duckdb.Error):
        asked(folder)
    pq.write_table(pa.table({"a": [5]}), folder / "t.parquet")
    assert asked(folder) == 5


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM read_parquet('{}/other.parquet')",
        "SELECT * FROM read_parquet('{}/own/../other.parquet')",
        "SELECT * FROM read_csv('{}/outside.csv')",
        "COPY (SELECT 1) TO '{}/written.csv'",
        "ATTACH '{}/written.db'",
        "SET enable_external_access = true",
        "SET memory_limit = '64GB'",
        "SET allowed_directories = ['/']",
        "INSTALL httpfs",
    ],
)
def test_no_statement_leaves_the_folder_or_changes_a_setting(folder, tmp_path, statement):
    with (
        reading_alone(folder) as connection,
        pytest.raises(Exception, match="disabled by configuration|locked|disabled through config"),
    ):
        connection.execute(statement.format(tmp_path))
    assert not list(tmp_path.glob("written.*"))
