"""Word statistics and the judge of rankings, against what was worked out by hand."""

import math

import pytest

from bench.ranking import BM25, Quality, best_first, judge, kendall_tau
from bench.texts import Section, sections


def test_bm25_is_the_published_formula() -> None:
    bm25 = BM25(["sky blue sky", "Blue sea", "a b c d"])
    # lengths 3, 2, 4 of average 3; "sky" is in one of three documents, "blue" in two
    idf_sky, idf_blue = math.log(1 + 2.5 / 1.5), math.log(1 + 1.5 / 2.5)
    first = idf_sky * 2 * 2.2 / (2 + 1.2) + idf_blue * 2.2 / (1 + 1.2)
    second = idf_blue * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / 3))
    assert bm25.scores("Blue SKY?") == pytest.approx([first, second, 0])


def test_quality_counts_where_the_relevant_document_stands() -> None:
    rankings = [[7, 3], [1, 2, 0], list(range(20, 31)), [5]]
    found = judge(rankings, [7, 0, 30, 9])  # first, third, eleventh, not at all
    assert found == Quality(
        pytest.approx((1 + 1 / 3 + 1 / 11) / 4),  # pyright: ignore[reportArgumentType]
        pytest.approx((1 + 1 / 2) / 4),  # pyright: ignore[reportArgumentType]
    )


def test_of_equal_scores_the_first_comes_first() -> None:
    assert best_first([0.0, 2.0, 2.0, -1.0]) == [1, 2, 0, 3]


def test_tau_counts_pairs_in_the_same_order() -> None:
    assert kendall_tau([1, 2, 3], [10, 20, 30]) == 1
    assert kendall_tau([1, 2, 3], [3, 2, 1]) == -1
    assert kendall_tau([1, 2, 3], [1, 3, 2]) == pytest.approx(1 / 3)


def test_sections_are_what_stands_below_numbered_headings() -> None:
    contents, first = "    1.1. What?\n\n", "1.1.\N{NO-BREAK SPACE} What\nis it?\n\n    A\n    text.\n\n"
    text = f"{contents}{first}1.2. Empty\n\n1.2.1. Why?\n\n  So.\n"
    assert sections(text) == [Section("What is it?", "A text."), Section("Why?", "So.")]
