"""Memory of the products' kernel: what is reached by its address alone is not given back early."""

from __future__ import annotations

import io

import pytest
from numba.core import compiler

from grok.streaming import products


@pytest.mark.parametrize("name", ["sums", "tile", "rest"])
def test_a_block_lives_until_its_address_was_used_last(name):
    code = io.StringIO()
    compiler.run_frontend(products._columns.py_func, emit_dels=True).dump(code)
    lines = [line.strip() for line in code.getvalue().splitlines()]
    given_back = next(i for i, line in enumerate(lines) if line.split()[:2] == ["del", name])
    uses = [
        i for i, line in enumerate(lines) if f"{name}_at" in line and not line.startswith("del ")
    ]
    assert uses and given_back > max(uses)
