"""How many attention scores are held at once."""

from __future__ import annotations

# Attention scores [B, H, T, S] that are held at once.
HELD_SCORES = 2**25


def query_rows(batch: int, queries: int, keys: int, heads: int) -> int:
    """Queries whose scores are held together: all, or a divisor of them."""
    most = max(1, HELD_SCORES // (batch * keys * heads))
    if queries <= most:
        return queries
    return max(rows for rows in range(1, most + 1) if queries % rows == 0)
