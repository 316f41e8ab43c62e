# SPDX-License-Identifier: Apache-2.0
"""Answers against ground truths: a golden table, its properties, and a hunt for the answer that takes longest.

The hunt is short here. `pytest tests/test_grading.py -k slowest --hunt-seconds 3600` hunts for an hour.
"""

import json
import random
import re
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critic_r1_verl.grading import equal, is_right, symbolic

GOLDEN = json.loads((Path(__file__).parent / "golden" / "answers.json").read_text(encoding="utf-8"))
TRUTHS = [case["truth"] for case in GOLDEN]
MAX_SECONDS, MAX_BYTES = 2.0, 16 * 2**20

PIECES = re.findall(
    r"\S+",
    r"""\frac{ } { ( ) [ ] , ; : = < > + - * / ^ ^{ _ \sqrt \sqrt[5]{ \sqrt{ 9 99 9999999999999999999 0.5 1e9 1e9999 2 x y a e \pi \infty
    \pm \cup \in \{ \} \left( \right) \log_2 \ln \sin \exp ! | \overline{3} \text{ cm m/s % \$ $ \\ & ° 1,000 A. (A) or and thousand
    1/2 \cdot √ ½ ' \begin{pmatrix} \end{pmatrix}""",
)
SLOW = [
    r"n=\sqrt[5]{9999999999999999999-61/n^6}",
    r"a=\sqrt[5]{a^8-99999999a}",
    "((x+y+1)^9+1)^9",
    "e^{e^{e^{e}}}",
    "x^{x^{x^x}}",
    r"2^{\sqrt{2}}^{99}",
    "500!/499!",
    r"\sqrt[63]{x}^{4095}",
    "e^{99999.5}",
    r"\pm\log_7 x",
]


def test_golden_table():
    """One test, since pytest takes longer for five hundred of them than the answers do."""
    assert [case["truth"] for case in GOLDEN if not is_right(case["truth"], case["truth"])] == []
    graded = [(case["truth"], answer, kind) for case in GOLDEN for kind in ("right", "wrong") for answer in case[kind]]
    assert [case for case in graded if is_right(case[1], case[0]) != (case[2] == "right")] == []


@pytest.mark.parametrize(
    ("answer", "truth", "expected"),
    [
        (r"\sin(x)", r"\sin x", True),
        (r"\sin 2x", r"2\sin x\cos x", None),
        ("6", r"\tan 45^\circ", None),
        ("6", "5", False),
        ("x^2", "x^3", False),
        ("a dog", "a cat", False),
    ],
)
def test_the_own_reader_says_what_it_cannot_tell(answer, truth, expected):
    assert equal(answer, truth) is expected


@pytest.mark.parametrize(
    "text",
    [
        "x=\\sin 5",
        "\\sin 0.5",
        "\\sin 999",
        "\\sin 99 99",
        "\\sin x^{x}",
        "\\sin x^2^2",
        "\\sin x^{22}",
        "\\sin x^5",
        "\\sin x^2 y^2 z^2",
        "\\sin e",
        "\\sin x!",
        "\\sin\\sin\\sin\\sin\\sin x",
        "\\sin x+" + "x+" * 21 + "x",
        "\\int \\sin x",
        "\\sin(x,y)",
        "\\sin x<1",
        "\\sin \\sqrt[5]{x}",
        "\\sin 5\\%",
    ],
)
def test_math_verify_is_not_asked_beyond_the_form(text, monkeypatch):
    monkeypatch.setattr("math_verify.parse", lambda *_, **__: pytest.fail("asked"))
    assert not symbolic.equal(text, "\\sin x")
    assert not symbolic.equal("\\sin x", text)


@pytest.mark.parametrize("wrap", ["${}$", "$$ {} $$", r"\({}\)", r"\[{}\]", "{}.", r"\displaystyle {}", r"\boxed{{{}}}", " {}\n"])
def test_what_only_changes_the_look_changes_nothing(wrap):
    kept = [truth for truth in TRUTHS if "$" not in truth and truth != r"\text{}"]
    assert [truth for truth in kept[::3] if not is_right(wrap.format(truth), truth)] == []


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES + TRUTHS), max_size=12).map("".join) | st.text(st.characters(), max_size=60),
    st.sampled_from(TRUTHS) | st.text(st.characters(), max_size=60),
)
def test_every_text_is_graded(answer, truth):
    assert equal(answer, truth) in (True, False, None)
    assert is_right(answer, truth) in (True, False)
    assert is_right(answer, answer) is bool(answer.strip())


@settings(max_examples=50, deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_two_numbers_are_equal_in_any_notation_only_if_they_are(one, other):
    for answer in (str(other), f"{other:,}", f"{other}.0", rf"\frac{{{2 * other}}}{{2}}", f"x = {other}", rf"{other}\text{{ cm}}"):
        assert equal(answer, str(one)) is (one == other)
        assert equal(answer, str(other)), answer


@pytest.mark.parametrize(
    "unit",
    ["(", "{", "[", "-", "$", "√", r"\sqrt", r"\frac", "x^", "1,", "ln ", "|", "A. ", "a ", "=", "≤1", "$-", r"\{", "½", "\ufdfa", " "],
)
@pytest.mark.parametrize("length", [590, 1_000_000])
def test_repeated_texts_end_at_once(unit, length):
    answer = (unit * length)[:length]
    start = time.thread_time()
    assert not equal(answer, "10")
    assert not equal("10", answer)
    equal(answer + "1", answer + "2")
    assert time.thread_time() - start < MAX_SECONDS


@pytest.mark.parametrize("answer", SLOW)
def test_what_once_took_minutes_ends_at_once(answer):
    start = time.thread_time()
    for truth in ("n=83", "x=3", "a>2", *SLOW):
        assert equal(answer, truth) is (answer == truth)
    assert time.thread_time() - start < MAX_SECONDS


def test_the_slowest_answer_is_fast_and_small(request):
    """Mutates the slowest texts found so far, from texts that once took minutes."""
    chance = random.Random(14)
    found = [(0.0, text) for text in SLOW]

    def mutated(text: str) -> str:
        for _ in range(chance.randint(1, 4)):
            place, end = sorted(chance.randint(0, len(text)) for _ in range(2))
            text = chance.choice(
                (
                    text[:place] + chance.choice(PIECES) + text[place:],
                    text[:place] + text[place:end] * chance.randint(0, 6) + text[end:],
                    text[:place] + chance.choice(SLOW) + text[place:],
                )
            )
        return text[:600]

    end = time.monotonic() + request.config.getoption("--hunt-seconds")
    tracemalloc.start()
    try:
        while time.monotonic() < end:
            answer, truth = mutated(chance.choice(found)[1]), chance.choice([*TRUTHS, *SLOW, mutated(chance.choice(found)[1])])
            tracemalloc.reset_peak()
            before, start = tracemalloc.get_traced_memory()[0], time.thread_time()
            is_right(answer, truth)
            seconds, peak = time.thread_time() - start, tracemalloc.get_traced_memory()[1] - before
            assert seconds < MAX_SECONDS, (seconds, answer, truth)
            assert peak < MAX_BYTES, (peak, answer, truth)
            found = sorted([*found, (seconds, answer)], reverse=True)[:100]
    finally:
        tracemalloc.stop()
    print(f"slowest: {found[0][0]:.3f} s {found[0][1]!r}")
