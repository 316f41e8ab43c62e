# SPDX-License-Identifier: Apache-2.0
"""Compares the methods of a selection with the vote and with the greedy answer, at equal tokens.

The tokens of a question are those of its samples, their prompt once, and those of the verdicts that the method used, with their prompts.
The vote is known for every number of samples up to the largest, because it needs no verdicts; between two numbers its accuracy is
interpolated for each question. A method that spends more than the vote among all samples is compared with that one, and beyond says so.

`critic-r1 select --sweep` writes sweep.json with the keys

    questions   how many
    max_samples
    greedy      the estimate of the greedy answers, null if `critic-r1 eval` has not written any to the same folder
    points      {"method", "samples", "tokens", "accuracy", "against_vote", "vote_samples", "beyond", "against_greedy"}, where tokens is the
                mean of a question, and each of the others an estimate or null; vote_samples is the vote of as many tokens
    winner      the method and samples of the point that is best against the vote, if its interval is above 0; else the vote
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from critic_r1_verl.lines import Selection
from critic_r1_verl.records import QuestionRecord
from critic_r1_verl.scoring.estimates import Values
from critic_r1_verl.scoring.measures import clusters_of
from critic_r1_verl.scoring.run import Run
from critic_r1_verl.select.candidates import by_question
from critic_r1_verl.select.plan import Plan, Samples, selections_of

FILE = "sweep.json"
VOTE = "majority"


def sweep(run: Run) -> dict[str, Any]:
    """The content of sweep.json, computed from the files of a complete selection. ValueError if token counts are missing."""
    questions, answers = run.questions, run.answers()
    samples = by_question(answers)
    clusters = dict(zip((question.question_id for question in questions), clusters_of(questions), strict=True))
    votes = _votes(questions, samples)
    greedy = {(answer.question_id,): float(answer.correct) for answer in answers if answer.kind == "greedy"}
    greedy_values = Values(greedy, clusters) if greedy.keys() == {(question_id,) for question_id in samples} else None
    points = []
    of_points: dict[tuple[str, int], list[Selection]] = {}
    for line in run.selections():
        of_points.setdefault((line.method, line.samples), []).append(line)
    for (method, num_samples), lines in of_points.items():
        right = Values({(line.question_id,): line.correct for line in lines}, clusters)
        tokens = _mean_tokens(lines)
        place, beyond = _place(votes, tokens)
        vote = Values(_at(votes, place), clusters)
        points.append(
            {
                "method": method,
                "samples": num_samples,
                "tokens": tokens,
                "accuracy": right.estimate().to_json(),
                "against_vote": None if method == VOTE else right.difference(vote).to_json(),
                "vote_samples": place + 1,
                "beyond": beyond,
                "against_greedy": right.difference(greedy_values).to_json() if greedy_values else None,
            }
        )
    return {
        "questions": len(questions),
        "max_samples": len(votes),
        "greedy": greedy_values.estimate().to_json() if greedy_values else None,
        "points": points,
        "winner": _winner(points),
    }


def _votes(questions: Sequence[QuestionRecord], samples: Samples) -> list[tuple[float, dict[tuple, float]]]:
    """For each number of samples, from 1, the mean tokens of a question and, by question, what the vote is worth."""
    most = min(map(len, samples.values()))
    plan = Plan((VOTE,), tuple(range(1, most + 1)))
    of_number: list[list[Selection]] = [[] for _ in range(most)]
    for line in selections_of(plan, questions, samples, {}):
        of_number[line.samples - 1].append(line)
    return [(_mean_tokens(lines), {(line.question_id,): line.correct for line in lines}) for lines in of_number]


def _mean_tokens(lines: Sequence[Selection]) -> float:
    spent = [(line.answer_tokens, line.judge_tokens) for line in lines]
    known = [answering + judging for answering, judging in spent if answering is not None and judging is not None]
    if len(known) < len(spent):
        raise ValueError("the engine did not return token counts, so methods cannot be compared at equal tokens")
    return sum(known) / len(known)


def _place(votes: Sequence[tuple[float, dict[tuple, float]]], tokens: float) -> tuple[float, bool]:
    """The place in votes, a fraction between two of them, of a vote with so many tokens, and whether the last vote has fewer."""
    for place, ((low, _), (high, _)) in enumerate(pairwise(votes)):
        if tokens <= high:
            return place + max(0.0, (tokens - low) / (high - low)), False
    return float(len(votes) - 1), tokens > votes[-1][0] * (1 + 1e-9)


def _at(votes: Sequence[tuple[float, dict[tuple, float]]], place: float) -> dict[tuple, float]:
    low = int(place)
    high = min(low + 1, len(votes) - 1)
    return {key: (1 - place + low) * value + (place - low) * votes[high][1][key] for key, value in votes[low][1].items()}


def _winner(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The best point whose interval against the vote is above 0; the oracle and the duel know the truth and do not count."""
    better = [
        point
        for point in points
        if point["against_vote"] and point["against_vote"]["ci95"][0] > 0 and point["method"] not in ("oracle", "duel")
    ]
    best = max(better, key=lambda point: point["against_vote"]["value"], default=None)
    return {"method": best["method"], "samples": best["samples"]} if best else {"method": VOTE, "samples": None}
