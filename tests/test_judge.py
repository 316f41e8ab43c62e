# SPDX-License-Identifier: Apache-2.0
"""Judging, answering and selecting with a scripted model: what is asked, what is written, what a killed run finds again."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from critic_r1_verl import prompts
from critic_r1_verl.answer import answer
from critic_r1_verl.engines.base import Sampling
from critic_r1_verl.journal import Journal
from critic_r1_verl.judge import Protocol, judge
from critic_r1_verl.records import Image, PairRecord, QuestionRecord
from critic_r1_verl.select import by_question, majority, self_critique

IMAGE = Image(path="images/a.png", sha256="0" * 64)
CRITIC, POLICY = Protocol(prompts.load("critic_short"), Sampling(8)), prompts.load("policy_short")


def pair(number: int, preferred: str = "1") -> PairRecord:
    return PairRecord(
        images=(IMAGE,), question=f"Q{number}?", response_1=f"good {number}", response_2=f"bad {number}", preferred=preferred, source="t"
    )


def prefers_good(prompt: str, _: int) -> str:
    return f"<think>looking</think> \\boxed{{{1 if prompt.index('good') < prompt.index('bad') else 2}}}"


def run_judge(pairs: list[PairRecord], model, out: Path, protocol: Protocol = CRITIC) -> list[dict]:
    return list(judge(pairs, model, protocol, out, root=Path("/data")))


@pytest.mark.parametrize(
    ("reply", "correct", "status"),
    [
        (prefers_good, [True, True], "parsed"),
        (lambda *_: "<think>x</think> \\boxed{1}", [True, False], "parsed"),
        (lambda *_: "no idea", [False, False], "missing"),
        (lambda *_: "<think>never closed", [False, False], "unclosed"),
    ],
)
def test_each_pair_is_judged_in_both_orders(scripted, tmp_path: Path, reply: Callable, correct: list[bool], status: str) -> None:
    lines = run_judge([pair(0)], scripted(reply), tmp_path / "j.jsonl")
    assert [line["order"] for line in lines] == ["12", "21"]
    assert [line["preferred"] for line in lines] == ["1", "2"]
    assert [line["correct"] for line in lines] == correct
    assert {line["status"] for line in lines} == {status}
    assert [json.loads(text) for text in (tmp_path / "j.jsonl").read_text().splitlines()] == lines


def test_repeats_have_seeds_of_their_own_and_stand_beside_each_other(scripted, tmp_path: Path) -> None:
    model = scripted(prefers_good)
    protocol = Protocol(CRITIC.template, Sampling(8, temperature=0.7, seed=5), repeats=3)
    lines = run_judge([pair(0), pair(1)], model, tmp_path / "j.jsonl", protocol)
    assert sorted((line["order"], line["repeat"]) for line in lines) == sorted(
        [("12", 0), ("12", 1), ("12", 2), ("21", 0), ("21", 1), ("21", 2)] * 2
    )
    assert [request.sampling.seed for request in model.asked] == [5, 5, 6, 6, 7, 7] * 2
    assert model.asked[1].name == f"pair {pair(0).pair_id} in order 21"
    assert ["Q0" in request.prompt for request in model.asked] == [True] * 6 + [False] * 6


@pytest.mark.parametrize(("repeats", "message"), [(0, "at least 1"), (2, "2 repeats at temperature 0 are 2 times the same")])
def test_repeats_that_make_no_sense(repeats: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Protocol(CRITIC.template, Sampling(8), repeats)


def test_a_pair_that_stands_there_twice_is_judged_once(scripted, tmp_path: Path) -> None:
    model = scripted(prefers_good)
    assert len(run_judge([pair(0), pair(1), pair(0)], model, tmp_path / "j.jsonl")) == 4
    assert len(model.asked) == 4


def test_another_models_marks_of_thought_become_ours(scripted, tmp_path: Path) -> None:
    protocol = Protocol(CRITIC.template, Sampling(8), think_tags=("[THINK]", "[/THINK]"))
    lines = run_judge([pair(0)], scripted(lambda *_: "[THINK]\\boxed{2}[/THINK] \\boxed{1}"), tmp_path / "j.jsonl", protocol)
    assert [(line["choice"], line["text"]) for line in lines] == [("1", "<think>\\boxed{2}</think> \\boxed{1}")] * 2


@pytest.mark.parametrize("order_of_arrival", [list, lambda places: places[::-1]], ids=["in order", "backwards"])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(scripted, tmp_path: Path, order_of_arrival: Callable) -> None:
    pairs = [pair(number) for number in range(5)]
    run_judge(pairs, scripted(prefers_good), tmp_path / "whole.jsonl")
    with pytest.raises(KeyboardInterrupt):
        run_judge(pairs, scripted(prefers_good, die_after=6, arrival=order_of_arrival), tmp_path / "cut.jsonl")
    assert len((tmp_path / "cut.jsonl").read_text().splitlines()) == 6
    with (tmp_path / "cut.jsonl").open("a") as stream:
        stream.write('{"pair_id": "half a li')
    rest = scripted(prefers_good)
    run_judge(pairs, rest, tmp_path / "cut.jsonl")
    assert len(rest.asked) == 4
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_full_disk_is_named_and_what_is_done_is_kept(scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "j.jsonl"
    pairs = [pair(0), pair(1)]
    run_judge(pairs[:1], scripted(prefers_good), out)
    opening = Path.open

    def full(self: Path, mode: str = "r", **options):
        return opening(Path("/dev/full") if self == out and mode == "ab" else self, mode, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        run_judge(pairs, scripted(prefers_good), out)
    assert caught.value.filename == str(out)
    monkeypatch.undo()
    assert len(out.read_text().splitlines()) == 2


def test_a_foreign_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "j.jsonl").write_text('{"other": 1}\n')
    with pytest.raises(ValueError, match=r"j\.jsonl:1: not a line of this run"):
        Journal(tmp_path / "j.jsonl", lambda line: (line["pair_id"],))


def question(number: int) -> QuestionRecord:
    return QuestionRecord(images=(IMAGE,), question=f"Q{number}?", answer="7", source="t")


def test_answers_are_one_greedy_and_n_sampled(scripted, tmp_path: Path) -> None:
    model = scripted(lambda _, sample: f"<think>t</think> \\boxed{{{7 if sample != 1 else 3}}}")
    lines = answer([question(0)], model, POLICY, tmp_path / "a.jsonl", root=Path("/data"), samples=3, max_tokens=8)
    assert [(line["kind"], line["sample"], line["answer"], line["correct"]) for line in lines] == [
        ("greedy", 0, "7", True),
        ("sample", 0, "7", True),
        ("sample", 1, "3", False),
        ("sample", 2, "7", True),
    ]
    assert [(request.sampling.temperature, request.sampling.samples) for request in model.asked] == [(0.0, 1), (1.0, 3)]
    again = scripted(lambda *_: pytest.fail("asked again"))
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
def test_self_critique_is_a_knock_out_in_both_orders(
    scripted, answers: tuple, reply: Callable, sample: int, matches: int, undecided: int
) -> None:
    (selection,) = self_critique([question(0)], sampled(*answers), scripted(reply), CRITIC, root=Path("/data"))
    assert (selection["sample"], selection["matches"], selection["undecided"]) == (sample, matches, undecided)
    assert selection["correct"] == float(answers[sample] == "7")


def test_identical_answers_meet_without_a_judge(scripted) -> None:
    lines = sampled("7", "3", "7")
    for line in next(iter(lines.values())):
        line["text"] = "<think>the same</think> text"
    (selection,) = self_critique([question(0)], lines, scripted(lambda *_: pytest.fail("judged")), CRITIC, root=Path("/data"))
    assert (selection["sample"], selection["matches"]) == (0, 0)
