"""Numbers in words."""

import numpy as np
import pytest

from lens.words import (
    counted,
    fixed,
    p_value_text,
    percent,
    plain,
    significant,
    similarity_text,
)


@pytest.mark.parametrize(
    ("p", "draws", "text"),
    [
        (0.03, None, "= 0.03"),
        (0.0312, 999, "= 0.031"),
        (1.0, 19, "= 1"),
        (0.00099, None, "= 0.00099"),
        (9.9e-5, None, "< 0.0001"),
        (1 / 100_000, 99_999, "< 0.0001"),
        (0.0, None, "< 0.0001"),
        (float("nan"), 999, "unknown"),
    ],
)
def test_a_p_value_has_two_digits_and_its_sign_of_relation(p, draws, text):
    assert p_value_text(p, draws) == text


@pytest.mark.parametrize("draws", [19, 199, 999, 1000, 4999])
def test_the_least_p_value_of_so_many_draws_is_an_upper_bound(draws):
    least, next_one = 1 / (1 + draws), 2 / (1 + draws)
    assert p_value_text(least, draws).startswith("≤ ")
    assert p_value_text(np.float64(1.0) / (1 + draws), draws).startswith("≤ ")
    assert p_value_text(next_one, draws).startswith("= ")
    assert p_value_text(least).startswith("= ")  # nothing is known of draws: taken as exact


def test_a_bound_is_one_whatever_its_size():
    assert p_value_text(0.004, bound=True) == "≤ 0.004"
    assert p_value_text(1e-6, bound=True) == "< 0.0001"


def test_numbers_keep_the_digits_that_count():
    assert [significant(v) for v in (0.12345, 1234.5, 0, 1.2345e-5)] == [
        "0.123",
        "1.23e+03",
        "0",
        "1.23e−05",
    ]
    assert significant(12.34567, 4) == "12.35"
    assert fixed(0.25, 3) == "0.250" and fixed(1.5, 3, sign=True) == "+1.500"


@pytest.mark.parametrize(
    "text",
    [
        significant(-0.5),
        fixed(-0.5, 2),
        fixed(-0.5, 2, sign=True),
        plain(-0.5),
        plain(-0.0005),
        similarity_text(-0.5),
        similarity_text(-0.0005),
        percent(-0.5),
    ],
)
def test_every_function_writes_a_real_minus(text):
    assert text.startswith("−") and "-" not in text


def test_plain_numbers_are_no_powers_of_ten():
    values = [0.456, 1.0, 0.0999, 0.00249, 1.4e-5, -0.003, float("nan")]
    assert [plain(value) for value in values] == [
        "0.46",
        "1.00",
        "0.1",
        "0.0025",
        "0.000014",
        "−0.003",
        "–",
    ]


def test_similarities_near_0_and_near_1_have_more_digits():
    values = [1.0, 0.99973, 0.5, 0.0, 0.00213]
    assert [similarity_text(value) for value in values] == [
        "1.000",
        "0.99973",
        "0.500",
        "0.000",
        "0.0021",
    ]


def test_a_share_and_its_sign_stay_on_one_line():
    assert percent(0.125) == "12\u00a0%" and percent(0.125, 1) == "12.5\u00a0%"


def test_one_thing_is_no_plural():
    assert [counted(n, "pair") for n in (0, 1, 2, 1200)] == [
        "0 pairs",
        "1 pair",
        "2 pairs",
        "1,200 pairs",
    ]
