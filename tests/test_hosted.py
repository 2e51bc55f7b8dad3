"""A few people at once on two web processes and a model's process, as the benchmark has them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from benchmarks.hosted.command import measured, rows_of
from benchmarks.hosted.people import shows
from benchmarks.hosted.servers import hosted

SMALL = Path(__file__).resolve().parent / "data" / "tiny3"


def test_people_on_two_web_processes_get_each_their_own_answer():
    with hosted(2, SMALL) as app, ThreadPoolExecutor(1) as pool:
        # In a thread of its own: where journeys ran before, this one has a loop of events already.
        one = pool.submit(measured, app, 4, 2.0, ids=True, think=0.5, let_go=0.0).result()
        assert len(app.pids()) == 4  # the model's process is watched over by another
        log = app.log.read_text()
    said = "\n".join(row.text() for row in rows_of(one))
    assert (one.seen.refused, one.seen.mixed, one.seen.failed) == (0, 0, []), said
    assert one.seen.prompts and max(one.watched.memory) > 0
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    asked = {line["asked"]: line["request"] for line in lines if line["message"] == "asked"}
    traced = [line for line in lines if line["message"] == "call" and line["call"] == "trace_all"]
    # What the model's process writes of a call begins with the id of the visit that asked for it.
    assert len(traced) == len(one.seen.prompts)
    assert all(line["request"].startswith(f"{asked[line['request']]}.") for line in traced)


def test_an_answer_of_somebody_else_is_known_as_such():
    table = pa.table({"place": [0, 1, 2], "piece": ["▁Two", "▁grey", "▁ships"]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    strip = sink.getvalue().to_pybytes()
    assert shows(strip, "Two grey ships.")
    assert not shows(strip, "Two grey ship.")
    assert not shows(b"", "Two grey ships.")
