"""Results as bytes, and bytes that are none."""

from __future__ import annotations

import io

import numpy as np
import pytest

from grok.serving.remote.wire import WireError, packed, unpacked
from grok.serving.shared_model import SharedModel


def same(a, b) -> bool:
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(
            same(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__
        )
    return a == b


def test_results_come_back_as_they_were(tiny3):
    shared = SharedModel(tiny3)
    trace = shared.trace([5, 17, 3])
    values = [trace, [trace, trace], shared.logit_lens([5, 17, 3]), {"tokens": 3}, (1, None, 0.5)]
    steps = list(shared.stream([5, 17], max_new_tokens=2))
    for value in [*values, *steps]:
        assert same(unpacked(packed(value)), value)


def test_a_trace_alone_is_a_trace_file(tiny3, tmp_path):
    from lens.traces import load_trace

    trace = SharedModel(tiny3).trace([5, 17, 3])
    (tmp_path / "a.npz").write_bytes(packed(trace))
    assert np.array_equal(load_trace(tmp_path / "a.npz").experts, trace.experts)


def zipped(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK\x03\x04 no archive",
        zipped(a=np.zeros(3)),
        zipped(tree=np.array('{"$": "os.system", "fields": {}}')),
        zipped(tree=np.array('{"$": "array", "name": "missing"}')),
        zipped(tree=np.array("{")),
        zipped(tree=np.array('{"$": "Step", "fields": {"token": 1}}')),
        zipped(tree=np.array([{}], dtype=object)),
        b"\x93NUMPY\1\0\1\0{\n",  # half a header, of an array alone
    ],
    ids=range(9),
)
def test_bytes_that_hold_no_result_are_refused(data: bytes):
    with pytest.raises(WireError, match="cannot be read"):
        unpacked(data)
