# SPDX-License-Identifier: Apache-2.0
"""N answers to a question -> one: by majority, or by the model's own judgement in a knock-out (self-critique).

A selection: {question_id, method, sample, answer, correct, matches, undecided}; sample is the index of the answer picked.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from critic_r1_verl.engines.base import Engine, in_order
from critic_r1_verl.judge import ORDERS, Protocol, request
from critic_r1_verl.records import PairRecord, QuestionRecord
from critic_r1_verl.verdict import parse_verdict, without_tags

Samples = dict[str, list[dict[str, Any]]]


def by_question(answers: Sequence[dict[str, Any]]) -> Samples:
    """The sampled answers of each question, in the order of their index."""
    samples: Samples = {}
    for line in sorted(answers, key=lambda line: (line["question_id"], line["sample"])):
        if line["kind"] == "sample":
            samples.setdefault(line["question_id"], []).append(line)
    return samples


def majority(samples: Samples) -> list[dict[str, Any]]:
    """The most frequent parsed answer. Where several are most frequent, correct is the expectation of a fair draw among them."""
    selections = []
    for question_id, lines in samples.items():
        votes = Counter(line["answer"] for line in lines if line["answer"] is not None)
        most = max(votes.values(), default=0)
        first = {text: next(line for line in lines if line["answer"] == text) for text, count in votes.items() if count == most}
        correct = sum(line["correct"] for line in first.values()) / len(first) if first else 0.0
        picked = next(iter(first.values()), lines[0])
        selections.append(_selection(question_id, "majority", picked, correct, 0, 0))
    return selections


def self_critique(
    questions: Sequence[QuestionRecord], samples: Samples, generator: Engine, protocol: Protocol, *, root: Path
) -> list[dict[str, Any]]:
    """A knock-out: neighbours meet, winners go on, an odd one out goes on unjudged.

    A match is judged greedily in both orders, and won only by the answer that both prefer. Otherwise, and between answers of the same text,
    the one with the lower index goes on: undecided counts the former, matches all that were judged.
    """
    by_id = {question.question_id: question for question in questions}
    alive = {question_id: list(lines) for question_id, lines in samples.items()}
    matches, undecided = Counter[str](), Counter[str]()
    while any(len(lines) > 1 for lines in alive.values()):
        meetings: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        for question_id, lines in alive.items():
            meetings += [
                (question_id, first, second)
                for first, second in zip(lines[::2], lines[1::2], strict=False)
                if without_tags(first["text"]) != without_tags(second["text"])
            ]
        wins = _second_wins(by_id, meetings, generator, protocol, root)
        for question_id, lines in alive.items():
            winners = []
            for index in range(0, len(lines), 2):
                first, second = lines[index], lines[min(index + 1, len(lines) - 1)]
                result = wins.get((question_id, first["sample"], second["sample"]), False)
                matches[question_id] += (question_id, first["sample"], second["sample"]) in wins
                undecided[question_id] += result is None
                winners.append(second if result else first)
            alive[question_id] = winners
    return [
        _selection(question_id, "self_critique", lines[0], float(lines[0]["correct"]), matches[question_id], undecided[question_id])
        for question_id, lines in alive.items()
    ]


def _second_wins(
    by_id: dict[str, QuestionRecord],
    meetings: list[tuple[str, dict[str, Any], dict[str, Any]]],
    generator: Engine,
    protocol: Protocol,
    root: Path,
) -> dict[tuple[str, int, int], bool | None]:
    """For each meeting whether the second answer won; None where the two orders do not agree on a winner."""
    requests = []
    for question_id, first, second in meetings:
        question = by_id[question_id]
        pair = PairRecord(
            images=question.images,
            question=question.question,
            response_1=without_tags(first["text"]),
            response_2=without_tags(second["text"]),
            preferred="tie",
            source=question.source,
        )
        requests += [request(pair, order, protocol, root) for order in ORDERS]
    choices = [parse_verdict(completion.text).choice for (completion,) in in_order(generator, requests)]
    verdicts = zip(meetings, choices[::2], choices[1::2], strict=True)
    decided = {("1", "2"): False, ("2", "1"): True}
    return {
        (question_id, first["sample"], second["sample"]): decided.get((a or "", b or "")) for (question_id, first, second), a, b in verdicts
    }


def _selection(question_id: str, method: str, picked: dict[str, Any], correct: float, matches: int, undecided: int) -> dict[str, Any]:
    return {
        "question_id": question_id,
        "method": method,
        "sample": picked["sample"],
        "answer": picked["answer"],
        "correct": correct,
        "matches": matches,
        "undecided": undecided,
    }
