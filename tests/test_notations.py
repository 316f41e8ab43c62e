# SPDX-License-Identifier: Apache-2.0
"""Answers in other notations, and which of them the reward pays."""

import pytest

from data_prep.notations import rewritten, unpaid

# Answers as question corpora have them.
ANSWERS = [
    r"\dfrac{1}{2}",
    r"\left[0,\dfrac{\pi}{2}\right)",
    r"\left(-\infty,-\frac{1}{2}\right)\cup\left(1,+\infty\right)",
    r"5\text{ cm}",
    r"x\text{ or }y",
    "$$x=1$$ $$y=2$$",
    "$$a_n=2n-1$$\n$$S_n=n^2$$",
    "(1) 3\n(2) 5",
    r"\left\{x\middle|x>1\right\}",
    r"y=\dfrac{k}{x}\left(k\ne 0\right)",
    r"\angle A=\angle B",
    r"\triangle ABC\cong\triangle DEF",
    r"\text{Yes}",
    r"AB\text{ is parallel to }CD",
    "A",
    "AC",
    "the left one",
]


@pytest.mark.parametrize("answer", ANSWERS)
def test_common_answers_are_paid_in_every_notation(answer):
    assert rewritten(answer)
    assert unpaid(answer) == []


def test_what_is_not_paid_is_named():
    long = r"\dfrac{1}{2}+\text{" + "a long proof " * 60 + "}"
    assert unpaid(long) == ["\\frac for \\dfrac", "without \\text"]
