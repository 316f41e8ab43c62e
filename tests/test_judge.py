# SPDX-License-Identifier: Apache-2.0
"""Judging, answering and selecting with a scripted model: what is asked, what is written, what a killed run finds again."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from critic_r1_verl import prompts
from critic_r1_verl.answer import answer
from critic_r1_verl.generate import Completion, Request, Sampling
from critic_r1_verl.journal import Journal
from critic_r1_verl.judge import judge
from critic_r1_verl.records import Image, PairRecord, QuestionRecord
from critic_r1_verl.select import by_question, majority, self_critique

IMAGE = Image(path="images/a.png", sha256="0" * 64)
CRITIC, POLICY = prompts.load("critic_short"), prompts.load("policy_short")


class Scripted:
    """A model that writes what `reply(prompt, sample)` says, and remembers what it was asked."""

    name = "scripted"

    def __init__(self, reply: Callable[[str, int], str], die_after: int | None = None) -> None:
        self.reply, self.die_after, self.asked = reply, die_after, []

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Completion]]:
        if self.die_after is not None and len(self.asked) >= self.die_after:
            raise KeyboardInterrupt
        self.asked += [(request.prompt, sampling.temperature) for request in requests]
        return [[Completion(self.reply(request.prompt, n), 9, 5) for n in range(request.samples)] for request in requests]


def pair(number: int, preferred: str = "1") -> PairRecord:
    return PairRecord(
        images=(IMAGE,), question=f"Q{number}?", response_1=f"good {number}", response_2=f"bad {number}", preferred=preferred, source="t"
    )


def prefers_good(prompt: str, _: int) -> str:
    return f"<think>looking</think> \\boxed{{{1 if prompt.index('good') < prompt.index('bad') else 2}}}"


def run_judge(pairs: list[PairRecord], model: Scripted, out: Path) -> list[dict]:
    return judge(pairs, model, CRITIC, out, root=Path("/data"), max_tokens=8)


@pytest.mark.parametrize(
    ("reply", "correct", "status"),
    [
        (prefers_good, [True, True], "parsed"),
        (lambda *_: "<think>x</think> \\boxed{1}", [True, False], "parsed"),
        (lambda *_: "no idea", [False, False], "missing"),
        (lambda *_: "<think>never closed", [False, False], "unclosed"),
    ],
)
def test_each_pair_is_judged_in_both_orders(tmp_path: Path, reply: Callable, correct: list[bool], status: str) -> None:
    lines = run_judge([pair(0)], Scripted(reply), tmp_path / "j.jsonl")
    assert [line["order"] for line in lines] == ["12", "21"]
    assert [line["preferred"] for line in lines] == ["1", "2"]
    assert [line["correct"] for line in lines] == correct
    assert {line["status"] for line in lines} == {status}
    assert [json.loads(text) for text in (tmp_path / "j.jsonl").read_text().splitlines()] == lines


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("critic_r1_verl.judge.BATCH", 3)
    pairs = [pair(number) for number in range(5)]
    run_judge(pairs, Scripted(prefers_good), tmp_path / "whole.jsonl")
    with pytest.raises(KeyboardInterrupt):
        run_judge(pairs, Scripted(prefers_good, die_after=6), tmp_path / "cut.jsonl")
    with (tmp_path / "cut.jsonl").open("a") as stream:
        stream.write('{"pair_id": "half a li')
    rest = Scripted(prefers_good)
    run_judge(pairs, rest, tmp_path / "cut.jsonl")
    assert len(rest.asked) == 4
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_foreign_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "j.jsonl").write_text('{"other": 1}\n')
    with pytest.raises(ValueError, match=r"j\.jsonl:1: not a line of this run"):
        Journal(tmp_path / "j.jsonl", lambda line: (line["pair_id"],))


def question(number: int) -> QuestionRecord:
    return QuestionRecord(images=(IMAGE,), question=f"Q{number}?", answer="7", source="t")


def test_answers_are_one_greedy_and_n_sampled(tmp_path: Path) -> None:
    model = Scripted(lambda _, sample: f"<think>t</think> \\boxed{{{7 if sample != 1 else 3}}}")
    lines = answer([question(0)], model, POLICY, tmp_path / "a.jsonl", root=Path("/data"), samples=3, max_tokens=8)
    assert [(line["kind"], line["sample"], line["answer"], line["correct"]) for line in lines] == [
        ("greedy", 0, "7", True),
        ("sample", 0, "7", True),
        ("sample", 1, "3", False),
        ("sample", 2, "7", True),
    ]
    assert [temperature for _, temperature in model.asked] == [0.0, 1.0]
    again = Scripted(lambda *_: pytest.fail("asked again"))
    assert answer([question(0)], again, POLICY, tmp_path / "a.jsonl", root=Path("/data"), samples=3, max_tokens=8) == lines


def sampled(*texts: str | None) -> dict[str, list[dict]]:
    identity = question(0).question_id
    lines = [
        {
            "question_id": identity,
            "kind": "sample",
            "sample": number,
            "answer": text,
            "correct": text == "7",
            "text": f"<think>I see {text}</think> {number % 2}",
        }
        for number, text in enumerate(texts)
    ]
    return by_question(lines)


@pytest.mark.parametrize(
    ("answers", "picked", "correct"),
    [
        (("7", "3", "7"), "7", 1.0),
        (("3", "7", "3"), "3", 0.0),
        (("7", "3"), "7", 0.5),
        ((None, "7", None), "7", 1.0),
        ((None, None), None, 0.0),
    ],
)
def test_majority_counts_parsed_answers_and_ties_by_expectation(answers: tuple, picked: str | None, correct: float) -> None:
    (selection,) = majority(sampled(*answers))
    assert (selection["answer"], selection["correct"]) == (picked, correct)


def prefers_seven(prompt: str, _: int) -> str:
    first, second = (prompt.split(f"Response {n}: ")[1].splitlines()[0] for n in (1, 2))
    return f"<think>t</think> \\boxed{{{1 if '7' in first else 2 if '7' in second else 1}}}"


@pytest.mark.parametrize(
    ("answers", "reply", "sample", "matches", "undecided"),
    [
        (("3", "4", "5", "7"), prefers_seven, 3, 3, 1),
        (("3", "4", "7"), prefers_seven, 2, 2, 1),
        (("3", "7", "4", "7"), lambda *_: "<think>t</think> \\boxed{1}", 0, 3, 3),
        (("3", "7"), lambda *_: "nothing", 0, 1, 1),
        (("7",), lambda *_: pytest.fail("no match to judge"), 0, 0, 0),
    ],
)
def test_self_critique_is_a_knock_out_in_both_orders(answers: tuple, reply: Callable, sample: int, matches: int, undecided: int) -> None:
    (selection,) = self_critique([question(0)], sampled(*answers), Scripted(reply), CRITIC, root=Path("/data"), max_tokens=8)
    assert (selection["sample"], selection["matches"], selection["undecided"]) == (sample, matches, undecided)
    assert selection["correct"] == float(answers[sample] == "7")


def test_identical_answers_meet_without_a_judge() -> None:
    lines = sampled("7", "3", "7")
    for line in next(iter(lines.values())):
        line["text"] = "<think>the same</think> text"
    (selection,) = self_critique([question(0)], lines, Scripted(lambda *_: pytest.fail("judged")), CRITIC, root=Path("/data"), max_tokens=8)
    assert (selection["sample"], selection["matches"]) == (0, 0)
