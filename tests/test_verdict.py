# SPDX-License-Identifier: Apache-2.0
r"""The output grammar: one golden table, its properties, and hostile texts."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critic_r1_verl.verdict import Answer, Verdict, normalise, parse_answer, parse_verdict

GOLDEN = json.loads((Path(__file__).parent / "golden" / "verdicts.json").read_text(encoding="utf-8"))

THOUGHT = "<think>Six and four.</think> "
ANSWERS = [
    (r"\boxed{10}", Answer("10", "parsed", True)),
    (r"\boxed{\frac{1}{2}}", Answer(r"\frac{1}{2}", "parsed", True)),
    (r"\boxed{\{1, 2\}}", Answer(r"\{1, 2\}", "parsed", True)),
    (r"\boxed{x_{a_{b}}}", Answer("x_{a_{b}}", "parsed", True)),
    (r"\boxed{\text{the Left one.}}", Answer("the Left one", "parsed", True)),
    (r"\boxed{$5$}", Answer("5", "parsed", True)),
    (r"\boxed{$5 or $6}", Answer("$5 or $6", "parsed", True)),
    (r"\boxed{\text{a} or \text{b}}", Answer(r"\text{a} or \text{b}", "parsed", True)),
    (r"\boxed{\(a\) or \(b\)}", Answer(r"\(a\) or \(b\)", "parsed", True)),
    (r"\boxed{10} \boxed{$10$}", Answer("10", "parsed", False)),
    (r"\boxed{10} \boxed{11}", Answer(None, "ambiguous", False)),
    (r"\boxed{10} \boxed{}", Answer(None, "ambiguous", False)),
    (r"The sum is \boxed{10}.", Answer("10", "parsed", False)),
    (r"\boxed{</think>}", Answer(None, "unclosed", False)),
    (r"\boxed{}", Answer(None, "missing", False)),
    (r"\boxed{$$}", Answer(None, "missing", False)),
    (r"\boxed{$}", Answer("$", "parsed", True)),
    ("ten", Answer(None, "missing", False)),
    (r"\boxed{\frac{1}{2}", Answer(None, "unclosed", False)),
]

HOSTILE = {
    "open boxes": r"\boxed{" * 15_000,
    "closed boxes": r"\boxed{1}" * 10_000,
    "deep braces": r"<think>a</think> \boxed{" + "{" * 10_000 + "1" + "}" * 10_001,
    "nested commands": r"<think>a</think> \boxed{" + r"\text{" * 10_000 + "1" + "}" * 10_001,
    "nested dollars": r"<think>a</think> \boxed{" + "$" * 100_000 + "}",
    "full stops": r"<think>a</think> \boxed{1" + "." * 100_000 + "}",
    "think tags": "<think>" * 15_000,
    "think blocks": "<think>a</think>" * 7_000,
    "closing tags": "</think>" * 15_000,
    "half tags": "<think" * 15_000,
    "backslashes": "\\" * 100_000,
    "spaces": "<think>" + " " * 100_000 + r"</think> \boxed{" + " " * 100_000 + "}",
    "invisible thought": "<think>" + "\u200b" * 100_000 + r"</think> \boxed{1}",
    "surrogates": "<think>\ud800</think> \\boxed{\udfff}",
    "controls": "".join(map(chr, range(32))) + "\x7f\x85\u2028\u202e\ufeff",
    "combining": "<think>a" + "\u0301" * 10_000 + r"</think> \boxed{1" + "\u0301" * 10_000 + "}",
    "denials": r"not \boxed{1} is wrong" * 10_000,
    "comments": "<!-- " * 15_000 + r"\boxed{1}",
    "phantoms": r"\phantom{" * 10_000 + r"\boxed{1}" + "}" * 10_000,
}
FRAGMENTS = [
    "<think>",
    "</think>",
    r"\boxed{",
    "{",
    "}",
    "\\",
    "\ud800",
    "1",
    "2",
    "tie",
    "$",
    r"\text{",
    r"\(",
    r"\)",
    ".",
    " ",
    "\n",
    "\0",
]
# Any characters, surrogates too; the default, those of UTF-8, takes hypothesis seconds to work out.
texts = st.one_of(st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join), st.text(st.characters()))


@pytest.mark.parametrize("case", GOLDEN, ids=[case["name"] for case in GOLDEN])
def test_golden_table(case):
    assert parse_verdict(case["text"]) == Verdict(case["choice"], case["status"], case["format"])


@pytest.mark.parametrize(("text", "answer"), ANSWERS)
def test_answers(text, answer):
    assert parse_answer(THOUGHT + text) == answer


def test_answers_share_the_structure_of_the_golden_table():
    for case in GOLDEN:
        verdict, answer = parse_verdict(case["text"]), parse_answer(case["text"])
        assert (answer.status == "unclosed") == (verdict.status == "unclosed"), case["name"]
        assert answer.format or not verdict.format, case["name"]


@settings(max_examples=150, deadline=None)
@given(texts)
def test_every_text_has_a_consistent_reading(text):
    verdict, answer = parse_verdict(text), parse_answer(text)
    assert verdict.choice in ("1", "2", "tie", None)
    assert (verdict.choice is None) == (verdict.status != "parsed")
    assert (answer.text is None) == (answer.status != "parsed")
    assert verdict.status == "parsed" or not verdict.format
    assert answer.status == "parsed" or not answer.format


@settings(max_examples=50, deadline=None)
@given(texts.filter(lambda text: "think>" not in text), st.sampled_from(["1", "2", "tie"]))
def test_what_is_thought_never_decides(thought, choice):
    verdict = parse_verdict(f"<think>so {thought}</think>\n\\boxed{{{choice}}}")
    assert verdict == Verdict(choice, "parsed", True)


@settings(max_examples=50, deadline=None)
@given(texts.filter(str.strip))
def test_more_text_never_keeps_the_format_and_never_changes_the_choice(more):
    good = THOUGHT + r"\boxed{1}"
    for text in (good + more, more + good):
        verdict = parse_verdict(text)
        assert not verdict.format or "think>" in more
        assert verdict.choice in ("1", None) or "think>" in more


@given(texts)
def test_normalise_only_shortens(content):
    assert len(normalise(content)) <= len(content)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_read(name):
    assert parse_verdict(HOSTILE[name]).status in ("parsed", "missing", "unclosed", "ambiguous")
    assert parse_answer(HOSTILE[name]).status in ("parsed", "missing", "unclosed", "ambiguous")


UNITS = [
    r"\boxed{",
    r"\boxed{1}",
    "{",
    "}",
    "<think>",
    "</think>",
    "<think>a</think>",
    "<think",
    "\\",
    "$",
    ".",
    " ",
    r"\text{",
    "\u200b",
    "<!--",
    r"\phantom{",
    r"\iffalse",
    "not ",
]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("prefix", ["", r"<think>a</think> \boxed{"])
def test_time_is_linear_in_the_length(prefix, unit):
    """Ten times the text takes about ten times the time; a quadratic reader takes a hundred times."""

    def seconds(num_units: int) -> float:
        text = prefix + unit * num_units + "</think>"
        best = float("inf")
        for _ in range(2):
            start = time.thread_time()
            parse_verdict(text)
            parse_answer(text)
            best = min(best, time.thread_time() - start)
        return best

    # Below a millisecond the clock and the caches decide, not the algorithm.
    assert seconds(10_000) < 40 * max(seconds(1_000), 1e-3)
