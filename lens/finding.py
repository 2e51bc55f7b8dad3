"""A finding in the two lengths it is told in: a plain sentence, and the numbers behind it.

Pages show the sentence as their first line and the rest one click away; the report and its CSV
files say both in the same words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["found", "not told from chance", "not asked"]
"""Whether it beat what it is set against; "not asked" where there was nothing to set it against."""

NAN = float("nan")


@dataclass(frozen=True)
class Finding:
    """One answer of the data.

    Attributes:
        sentence: plain, of about 20 words and one number at most; no p-value, no formula.
        verdict: whether it beat what it is set against.
        detail: the same in full: effect, what chance gives, p-value, draws and seed.
        effect: the number that it rests on; not a number where there is none.
        effect_name: what that is.
        null_mean, null_low, null_high: mean, 2.5 % and 97.5 % quantile of the null.
        beats: what was drawn for the null.
        p_value: adjusted for whatever was asked with it.
        draws, seed: of the null; 0 draws where it is known exactly, or there is none.
        place: row of the layer and number of the expert that it is about, where it is of one.
    """

    sentence: str
    verdict: Verdict
    detail: str = ""
    effect: float = NAN
    effect_name: str = ""
    null_mean: float = NAN
    null_low: float = NAN
    null_high: float = NAN
    beats: str = ""
    p_value: float = NAN
    draws: int = 0
    seed: int = 0
    place: tuple[int, int] | None = None

    @property
    def found(self) -> bool:
        """True where it beat what it is set against."""
        return self.verdict == "found"


def verdict_of(p_value: float, found: bool) -> Verdict:
    """Found or not; not asked where p is not a number."""
    if p_value != p_value:
        return "not asked"
    return "found" if found else "not told from chance"


def strongest(findings: list[Finding]) -> Finding:
    """The finding that a page opens with: the least p-value of those found, else the first."""
    return min((one for one in findings if one.found), key=_rank, default=findings[0])


def _rank(finding: Finding) -> float:
    return finding.p_value if finding.p_value == finding.p_value else 1.0
