# SPDX-License-Identifier: Apache-2.0
"""Selection among sampled answers: what each method picks, and that a killed knock-out resumes and ends with the same matches."""

from collections.abc import Callable
from pathlib import Path

import pytest

from critic_r1_verl import prompts
from critic_r1_verl.critics.pairwise import PairwiseCritic
from critic_r1_verl.engines.base import Sampling
from critic_r1_verl.lines import Answer, Match, Selection
from critic_r1_verl.records import Image, QuestionRecord
from critic_r1_verl.select import methods
from critic_r1_verl.select.run import judge_matches

IMAGE = Image(path="images/a.png", sha256="0" * 64)
CRITIC = PairwiseCritic(prompts.load("critic_short"), Sampling(8))


def question(number: int) -> QuestionRecord:
    return QuestionRecord(images=(IMAGE,), question=f"Q{number}?", answer="7", source="t")


def sampled(*answers: str | None, number: int = 0, text: str | None = None) -> dict[str, list[Answer]]:
    lines = [
        Answer(
            question_id=question(number).question_id,
            kind="sample",
            sample=sample,
            answer=answer,
            status="parsed" if answer else "missing",
            correct=answer == "7",
            text=text or f"<think>I see {answer}</think> {sample % 2}",
            prompt_tokens=9,
            completion_tokens=5,
            model="m",
            template_sha="0",
        )
        for sample, answer in enumerate(answers)
    ]
    return methods.by_question(lines)


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
    (selection,) = methods.majority(sampled(*answers))
    assert (selection.answer, selection.correct) == (picked, correct)


def prefers_seven(prompt: str, _: int) -> str:
    first, second = (prompt.split(f"Response {n}: ")[1].splitlines()[0] for n in (1, 2))
    return f"<think>t</think> \\boxed{{{1 if '7' in first else 2 if '7' in second else 1}}}"


def self_critique(samples: dict[str, list[Answer]], model, out: Path, number: int = 0) -> list[Selection]:
    questions = {question(index).question_id: question(index) for index in range(number + 1)}
    matches = judge_matches(questions, samples, model, CRITIC, out, root=Path("/data"))
    return methods.self_critique(samples, methods.verdicts_of(matches))


@pytest.mark.parametrize(
    ("answers", "reply", "sample", "matches", "undecided"),
    [
        (("3", "4", "5", "7"), prefers_seven, 3, 3, 1),
        (("3", "4", "7"), prefers_seven, 2, 2, 1),
        (("3", "7", "4", "7"), lambda *_: "<think>t</think> \\boxed{1}", 0, 3, 3),
        (("3", "7"), lambda *_: "nothing", 0, 1, 1),
        (("3", "7"), lambda *_: "<think>t</think> \\boxed{tie}", 0, 1, 1),
        (("7",), lambda *_: pytest.fail("no match to judge"), 0, 0, 0),
    ],
)
def test_self_critique_is_a_knock_out_in_both_orders(
    scripted, tmp_path: Path, answers: tuple, reply: Callable, sample: int, matches: int, undecided: int
) -> None:
    (selection,) = self_critique(sampled(*answers), scripted(reply), tmp_path / "m.jsonl")
    assert (selection.sample, selection.matches, selection.undecided) == (sample, matches, undecided)
    assert selection.correct == float(answers[sample] == "7")


def test_identical_answers_meet_without_a_judge(scripted, tmp_path: Path) -> None:
    samples = sampled("7", "3", "7", text="<think>the same</think> text")
    (selection,) = self_critique(samples, scripted(lambda *_: pytest.fail("judged")), tmp_path / "m.jsonl")
    assert (selection.sample, selection.matches) == (0, 0)


def test_matches_are_kept_with_texts_and_tokens(scripted, tmp_path: Path) -> None:
    from critic_r1_verl import lines

    self_critique(sampled("3", "7", "4"), scripted(prefers_seven), tmp_path / "m.jsonl")
    matches = list(lines.read(tmp_path / "m.jsonl", Match))
    assert [match.key[1:] for match in matches] == [(0, 1, "12"), (0, 1, "21"), (1, 2, "12"), (1, 2, "21")]
    assert [match.choice for match in matches] == ["2", "1", "1", "2"]
    assert {(match.text[:7], match.prompt_tokens, match.completion_tokens) for match in matches} == {("<think>", 9, 5)}


@pytest.mark.parametrize("die_after", [1, 2, 3, 5, 6])
def test_a_killed_knock_out_resumes_and_ends_with_the_same_bytes(scripted, tmp_path: Path, die_after: int) -> None:
    samples = sampled("3", "4", "5", "7") | sampled("7", "3", "4", "5", number=1)
    whole = self_critique(samples, scripted(prefers_seven), tmp_path / "whole.jsonl", number=1)
    with pytest.raises(KeyboardInterrupt):
        self_critique(samples, scripted(prefers_seven, die_after=die_after), tmp_path / "cut.jsonl", number=1)
    rest = scripted(prefers_seven)
    assert self_critique(samples, rest, tmp_path / "cut.jsonl", number=1) == whole
    assert len(rest.asked) == 12 - die_after
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_missing_match_is_named(scripted, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"question [0-9a-f]{20}: the match of samples 0 and 1 is missing; run `critic-r1 select` again"):
        methods.self_critique(sampled("3", "7"), {})
