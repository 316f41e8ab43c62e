# SPDX-License-Identifier: Apache-2.0
"""Every measure against golden numbers worked out by hand, and what is missing or doubled named."""

import json
import random
from pathlib import Path

import pytest

from critic_r1_verl.benchmarks.tally import Case
from critic_r1_verl.lines import Answer, Judgement, Selection
from critic_r1_verl.records import Image, QuestionRecord, to_record
from critic_r1_verl.scoring import judged as judging
from critic_r1_verl.scoring import measures

GOLDEN = json.loads((Path(__file__).parent / "golden/metrics.json").read_text(encoding="utf-8"))
# The golden file's names, which are older than the measures' own.
NAMES = {
    "critic_accuracy": ("critic", "accuracy"),
    "position_consistency": ("critic", "position_consistency"),
    "unparsed_rate": ("critic", "unparsed"),
    "policy_accuracy": ("policy", "greedy"),
    "single_accuracy": ("policy", "sample"),
    "majority_accuracy": ("policy", "majority"),
    "self_critique_accuracy": ("policy", "knockout"),
}
QUESTIONS = {
    f"q{number}": QuestionRecord(images=(Image(path="a.png", sha256=f"{number:064x}"),), question=f"Q{number}?", answer="7", source="s")
    for number in range(4)
}


def preferred(who: str) -> dict[str, str]:
    """Of each pair of the golden file the better response, which follows from a verdict that is right."""
    found = {}
    for line in GOLDEN["inputs"][who]["judgements"]:
        if line["correct"]:
            found[line["pair_id"]] = to_record(line["order"], line["choice"])
        found.setdefault(line["pair_id"], "1")
    return found


def judgements(who: str) -> list[Judgement]:
    known = preferred(who)
    return [
        Judgement(
            **{key: line[key] for key in ("pair_id", "order", "repeat", "choice", "status")},
            correct=line["choice"] == (shown := to_record(line["order"], known[line["pair_id"]])),
            preferred=shown,
            text="",
            prompt_tokens=None,
            completion_tokens=None,
            model="m",
            template_sha="0",
        )
        for line in GOLDEN["inputs"][who]["judgements"]
    ]


def answers(who: str) -> list[Answer]:
    return [
        Answer(
            question_id=QUESTIONS[line["question_id"]].question_id,
            kind=line["kind"],
            sample=line["sample"],
            answer="7" if line["correct"] else "3",
            status="parsed",
            correct=line["correct"],
            text="",
            prompt_tokens=None,
            completion_tokens=None,
            model="m",
            template_sha="0",
        )
        for line in GOLDEN["inputs"][who]["answers"]
    ]


def selections(who: str) -> list[Selection]:
    return [
        Selection(
            question_id=QUESTIONS[line["question_id"]].question_id,
            # The golden file's name of this method is older too.
            method="knockout" if line["method"] == "self_critique" else line["method"],
            samples=2,
            sample=0,
            answer="7",
            correct=line["correct"],
            calls=0,
            comparisons=0,
            undecided=0,
            answer_tokens=None,
            judge_tokens=None,
        )
        for line in GOLDEN["inputs"][who]["selections"]
    ]


def critic(lines: list[Judgement]) -> measures.Measures:
    pairs = {line.pair_id: to_record(line.order, line.preferred) for line in lines}
    cases = [Case(pair_id, pair_id, "all", pair_id, label or "", (1, 2)) for pair_id, label in pairs.items()]
    judged = judging.judged_of(lines, None)
    judging.check_complete(judged, cases)
    return measures.critic(judged, judging.trials_of(judged), cases, list(range(len(cases))))


def measured(who: str) -> dict[str, measures.Measures]:
    policy = measures.policy(list(QUESTIONS.values()), answers(who), selections(who))
    return {"critic": critic(judgements(who)), "policy": policy}


def close(found, expected: dict) -> bool:
    bounds = pytest.approx(expected["ci95"], abs=1e-8)
    return (found.value, found.n, list(found.ci95)) == (pytest.approx(expected["value"], abs=1e-8), expected["n"], bounds)


@pytest.mark.parametrize("who", ["base", "trained"])
@pytest.mark.parametrize("name", NAMES)
def test_an_estimate_equals_the_golden_one(who: str, name: str) -> None:
    part, key = NAMES[name]
    assert close(measured(who)[part][key]().estimate(), GOLDEN["summary"][who][name])


@pytest.mark.parametrize("name", NAMES)
def test_a_difference_equals_the_golden_one(name: str) -> None:
    part, key = NAMES[name]
    before, after = (measured(who)[part][key]() for who in ("base", "trained"))
    assert close(after.difference(before), GOLDEN["difference"][name])


def test_the_order_of_the_lines_does_not_matter() -> None:
    lines = judgements("base")
    mixed = random.Random(3).sample(lines, len(lines))
    for name, values in critic(lines).items():
        other = critic(mixed)[name]()
        assert (values() and values().estimate()) == (other and other.estimate())


def pair(choice_12: str | None, choice_21: str | None, repeat: int = 0) -> list[Judgement]:
    return [
        Judgement(
            pair_id="p",
            order=order,
            repeat=repeat,
            choice=choice,
            status="parsed" if choice else "missing",
            correct=choice == shown,
            preferred=shown,
            text="",
            prompt_tokens=None,
            completion_tokens=None,
            model="m",
            template_sha="0",
        )
        for order, choice, shown in (("12", choice_12, "1"), ("21", choice_21, "2"))
    ]


@pytest.mark.parametrize(
    ("repeats", "consistent", "strict"),
    [
        ([("1", "2")], 1, 1),
        ([("2", "1")], 1, 0),
        ([("tie", "tie")], 1, 0),
        ([("1", "1")], 0, 0),
        ([("1", "tie")], 0, 0),
        ([("1", None)], 0, 0),
        ([(None, None)], 0, 0),
        # Of several repeats the verdict of an order is what more than half say.
        ([("1", "2"), ("1", None), ("2", "2")], 1, 1),
        ([("1", "2"), ("2", "2")], 0, 0),
        ([("1", "1"), ("1", "1"), ("1", "2")], 0, 0),
    ],
)
def test_position_consistency_and_strict_are_of_the_voted_verdicts(repeats: list, consistent: int, strict: int) -> None:
    lines = [line for number, choices in enumerate(repeats) for line in pair(*choices, repeat=number)]
    found = critic(lines)
    assert found["position_consistency"]().estimate().value == consistent
    assert found["strict"]().estimate().value == strict
    assert found["accuracy"]().estimate().n == 2 * len(repeats)


def test_missing_and_unknown_answers_are_named() -> None:
    found = answers("base")
    with pytest.raises(ValueError, match=r"1 answers are missing, the first to question [0-9a-f]{20} \(greedy 0\)"):
        measures.policy(list(QUESTIONS.values()), found[1:], [])
    with pytest.raises(ValueError, match=r"an answer to the question [0-9a-f]{20}, which is not among the records"):
        measures.policy(list(QUESTIONS.values())[1:], found, [])
