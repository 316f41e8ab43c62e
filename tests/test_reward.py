# SPDX-License-Identifier: Apache-2.0
r"""The reward: a golden table, constant keys, totality, threads."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critic_r1_verl.reward import compute_score

GOLDEN = json.loads((Path(__file__).parent / "golden" / "rewards.json").read_text(encoding="utf-8"))
KEYS = ["score", "acc", "format", "parsed", "first", "tie"]
NOTHING = dict.fromkeys(KEYS, 0.0)
FRAGMENTS = [
    "<think>",
    "</think>",
    r"\boxed{",
    "{",
    "}",
    "1",
    "2",
    "tie",
    "x",
    "^",
    "(",
    ")",
    "+",
    "=",
    ",",
    "/",
    r"\frac",
    r"\sqrt",
    "\ud800",
    "\0",
    " ",
]


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_golden_table(case):
    reward = compute_score("demo", case["text"], case["ground_truth"], {"style": case["style"]})
    assert {key: reward[key] for key in case["expected"]} == pytest.approx(case["expected"])
    assert list(reward) == KEYS
    assert all(type(value) is float for value in reward.values())


@pytest.mark.parametrize(
    ("box", "style", "expected"),
    [("1", "verdict", (1, 0)), ("2", "verdict", (0, 0)), ("tie", "verdict", (0, 1)), ("", "verdict", (0, 0)), ("1", "math", (0, 0))],
)
def test_which_response_a_verdict_names(box, style, expected):
    """So that validation sees a critic that always says the same."""
    reward = compute_score("demo", f"<think>a</think> \\boxed{{{box}}}", "2", {"style": style})
    assert (reward["first"], reward["tie"]) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"why</think> \boxed{1}", (1.0, 1.0)),
        (r"<think>why</think> \boxed{1}", (1.0, 1.0)),
        (r"why \boxed{1}", (0.0, 0.0)),
        (r"</think> \boxed{1}", (1.0, 0.0)),
    ],
)
def test_a_thought_that_the_template_has_opened(text, expected):
    reward = compute_score("demo", text, "1", thought_opened=True)
    assert (reward["acc"], reward["format"]) == expected
    if not text.startswith("<think>"):
        assert compute_score("demo", text, "1")["format"] == 0.0


def test_style_is_verdict_by_default_and_weights_come_from_the_recipe():
    right, wrong = (rf"<think>Response 2 is wrong.</think> \boxed{{{choice}}}" for choice in "12")
    assert compute_score("demo", right, "1") == compute_score("demo", right, "1", {}) == dict.fromkeys(KEYS, 1.0) | {"tie": 0.0}
    called = compute_score(
        data_source="demo", solution_str=wrong, ground_truth="1", extra_info=None, accuracy_weight=0.8, format_weight=0.2, num_turns=1
    )
    assert called["score"] == pytest.approx(0.2)


@pytest.mark.parametrize("text", [None, b"\\boxed{1}", 1, 1.0, ["\\boxed{1}"], {}])
@pytest.mark.parametrize("style", ["verdict", "math", "rubric", None, []])
def test_what_is_no_text_scores_nothing(text, style):
    assert compute_score("demo", text, "1", {"style": style}) == NOTHING


@pytest.mark.parametrize("truth", [None, 1, b"1", [], {"1": 1}, float("nan")])
@pytest.mark.parametrize("style", ["verdict", "math"])
def test_what_is_no_label_is_never_right(truth, style):
    assert compute_score("demo", r"<think>a</think> \boxed{1}", truth, {"style": style}) == NOTHING


# Surrogates are among them; the default, the characters of UTF-8, takes hypothesis seconds to work out.
TEXT = st.text(st.characters())


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join), TEXT), TEXT | st.sampled_from(["1", "tie"]))
def test_no_text_makes_it_raise(text, truth):
    reward = compute_score("demo", text, truth)
    assert list(reward) == KEYS
    assert 0.0 <= reward["score"] <= 1.0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join))
def test_no_answer_makes_maths_raise(content):
    reward = compute_score("demo", rf"<think>a</think> \boxed{{{content}}}", r"\frac{1}{2}", {"style": "math"})
    assert list(reward) == KEYS


@pytest.mark.parametrize(
    "content",
    [
        "9" * 200_000,
        "(" * 30_000,
        r"\frac{1}{" * 10_000 + "1" + "}" * 10_000,
        r"\sqrt" * 100_000,
        "x^" * 100_000 + "2",
        "9^{9^{9^{9}}}",
        "(x+y)^{99999}",
        "99999999!",
        r"\sum_{n=1}^{99999999} n",
        r"\int_0^1 e^{x^{x^x}} dx",
        r"\sqrt[5]{\sqrt{(\frac{0.5}{123456789})^9}/99}",
        "__import__('os').getpid()",
        "1/0",
        "\ud800",
        "\0",
    ],
)
def test_hostile_maths_is_wrong_at_once(content):
    reward = compute_score("demo", rf"<think>a</think> \boxed{{{content}}}", "10", {"style": "math"})
    assert reward["acc"] == 0.0


@pytest.mark.parametrize("truth", ["10", "(x+y)^{2}", "x^9y^9"])
@pytest.mark.parametrize(
    "content",
    ["((x+y+1)^9+1)^9", "(((x+y)^9)^9)^9", "((x+y+1)^{-9} + 1) ^{9}", "((x+y+1)^0+1)^9", r"\left(x+y\right)^9\left(x+1\right)^9", "9^9^9"],
)
def test_powers_of_brackets_are_not_expanded(content, truth):
    compute_score("demo", r"<think>a</think> \boxed{0.5}", "0.50", {"style": "math"})
    start = time.process_time()
    reward = compute_score("demo", rf"<think>a</think> \boxed{{{content}}}", truth, {"style": "math"})
    assert reward["acc"] == 0.0
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(("content", "truth", "right"), [(r"\frac{%d}{2}", "3.5", 7), (r"\sin %d^\circ", r"\frac{1}{2}", 30)])
def test_maths_works_in_the_threads_that_verl_uses(content, truth, right):
    numbers = range(right - 4, right + 5)
    texts = [rf"<think>a</think> \boxed{{{content % number}}}" for number in numbers]
    with ThreadPoolExecutor(8) as pool:
        rewards = list(pool.map(lambda text: compute_score("demo", text, truth, {"style": "math"}), texts))
    assert [reward["acc"] for reward in rewards] == [float(number == right) for number in numbers]


def test_import_is_light():
    code = "import sys, critic_r1_verl.reward; print([m for m in ('sympy', 'math_verify', 'torch', 'verl', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
