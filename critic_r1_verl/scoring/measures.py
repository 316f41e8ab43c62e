# SPDX-License-Identifier: Apache-2.0
"""Defines all measures of a run, as the values from which estimates and differences are computed.

Of a critic (shares, of pairs where both orders are needed, else of judgements):
    strict                   pairs whose majority verdicts are right in both orders; the majority is more than half of the K repeats
    accuracy                 judgements that are right; an unparsed one is wrong
    position_consistency     pairs whose majority verdicts agree in both orders; an unparsed verdict agrees with none
    first_share              judgements for the response shown first, of all for one of the two
    ties, unparsed           judgements with the verdict "tie"; judgements without a verdict
    unparsed/STATUS          judgements without a verdict because the box is missing, unclosed or ambiguous
    unparsed/END             judgements without a verdict because the completion was cut_short, refused, a tool_call or empty; null if none
    accuracy_chosen_longer   accuracy on pairs whose better response is the longer one; accuracy_chosen_shorter: the shorter one
    completion_tokens        the mean number of tokens of a judgement
    strict/GROUP, accuracy/GROUP   the same within a group of the benchmark
Of a policy (answers are graded by the reward of training):
    greedy                   greedy answers that are right
    sample                   sampled answers that are right
    majority, self_critique  answers picked among the samples by this method that are right
    sample_tokens            the mean number of tokens of all samples of a question
    critique_tokens          the mean number of tokens of all matches judged for a question, prompts included
    undecided                judged matches whose two orders do not agree on the winner
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from critic_r1_verl.benchmarks import tally
from critic_r1_verl.benchmarks.tally import Case
from critic_r1_verl.lines import ENDS, STATUSES, Answer, Match, Selection
from critic_r1_verl.records import PairRecord, QuestionRecord, to_record
from critic_r1_verl.scoring.estimates import Values
from critic_r1_verl.scoring.judged import ByPair, Judged, strict, voted
from critic_r1_verl.select.methods import METHODS

Measures = dict[str, Callable[[], Values | None]]
"""For each measure, a function that returns its values, None if there are none; so the values of only one measure are held at a time."""

TOKENS = ("completion_tokens", "sample_tokens", "critique_tokens")


def critic(judged: ByPair, trials: Mapping[str, tally.Trials], cases: Sequence[Case], clusters: Sequence[int]) -> Measures:
    """The measures of a critic. cases: the items of the benchmark; clusters: the cluster of each, by position."""
    cluster_of = {case.key: cluster for case, cluster in zip(cases, clusters, strict=True)}

    def of_items(value: Callable[[Case], float], wanted: Callable[[Case], bool] = lambda case: True) -> Values | None:
        return _values({(case.key,): value(case) for case in cases if wanted(case)}, cluster_of)

    def of_lines(
        value: Callable[[Judged, Case], float | None], wanted: Callable[[Case], bool] = lambda case: True, bounded: bool = True
    ) -> Values | None:
        each = {(case.key, line.repeat, line.order): value(line, case) for case in cases if wanted(case) for line in judged[case.pair_id]}
        return _values({key: number for key, number in each.items() if number is not None}, cluster_of, bounded)

    both_right = dict(zip((case.key for case in cases), strict(trials, cases), strict=True))

    def consistent(case: Case) -> float:
        verdict_12, verdict_21 = voted(trials[case.pair_id])
        return float(verdict_12 is not None and verdict_12 == verdict_21)

    def right(line: Judged, case: Case) -> float:
        return float(to_record(line.order, line.choice) == case.preferred)

    def first(line: Judged, case: Case) -> float | None:
        return float(line.choice == "1") if line.choice in ("1", "2") else None

    def longer(case: Case) -> int:
        """How many characters longer the better response is; 0 for a tie."""
        return (case.lengths[0] - case.lengths[1]) * {"1": 1, "2": -1, "tie": 0}[case.preferred]

    def in_status(status: str) -> Callable[[Judged, Case], float]:
        return lambda line, case: float(line.status == status)

    ended_as = {line.status for of_pair in judged.values() for line in of_pair} & {*ENDS}

    def in_group(group: str) -> Callable[[Case], bool]:
        return lambda case: case.group == group

    found: Measures = {
        "strict": partial(of_items, lambda case: both_right[case.key]),
        "accuracy": partial(of_lines, right),
        "position_consistency": partial(of_items, consistent),
        "first_share": partial(of_lines, first),
        "ties": partial(of_lines, lambda line, case: float(line.choice == "tie")),
        "unparsed": partial(of_lines, lambda line, case: float(line.choice is None)),
        **{f"unparsed/{status}": partial(of_lines, in_status(status)) for status in STATUSES[1:] if status not in ENDS},
        **{f"unparsed/{end}": partial(of_lines, in_status(end)) if end in ended_as else _nothing for end in ENDS},
        "accuracy_chosen_longer": partial(of_lines, right, lambda case: longer(case) > 0),
        "accuracy_chosen_shorter": partial(of_lines, right, lambda case: longer(case) < 0),
        "completion_tokens": partial(of_lines, lambda line, case: line.tokens, bounded=False),
    }
    groups = sorted({case.group for case in cases})
    for group in groups if len(groups) > 1 else ():
        found[f"strict/{group}"] = partial(of_items, lambda case: both_right[case.key], in_group(group))
        found[f"accuracy/{group}"] = partial(of_lines, right, in_group(group))
    return found


def policy(
    questions: Sequence[QuestionRecord], answers: Iterable[Answer], matches: Iterable[Match], selections: Iterable[Selection]
) -> Measures:
    """The measures of a policy. selections: those computed from the answers and matches.

    ValueError names a question that lacks an answer which other questions have, and an answer to an unknown question.
    """
    ids = [question.question_id for question in questions]
    cluster_of = dict(zip(ids, clusters_of(questions), strict=True))
    graded: dict[tuple, float] = {}
    sampled: dict[tuple, float] = {}
    tokens_known = True
    for answer in answers:
        graded[answer.question_id, answer.kind, answer.sample] = float(answer.correct)
        if answer.kind == "sample":
            tokens_known &= answer.completion_tokens is not None
            sampled[answer.question_id,] = sampled.get((answer.question_id,), 0) + (answer.completion_tokens or 0)
    _check_complete(graded, set(ids))
    picked = {(line.question_id, line.method): line for line in selections}
    critiqued: dict[tuple, float] = {(question_id,): 0.0 for question_id, method in picked if method == "self_critique"}
    for match in matches:
        tokens_known &= match.completion_tokens is not None and match.prompt_tokens is not None
        if (match.question_id,) in critiqued:
            critiqued[match.question_id,] += (match.prompt_tokens or 0) + (match.completion_tokens or 0)

    judged = [line for line in picked.values() if line.method == "self_critique" and line.matches]
    found = {
        "greedy": _values({key: value for key, value in graded.items() if key[1] == "greedy"}, cluster_of),
        "sample": _values({key: value for key, value in graded.items() if key[1] == "sample"}, cluster_of),
        **{
            method: _values({(key[0],): line.correct for key, line in picked.items() if key[1] == method}, cluster_of) for method in METHODS
        },
        "undecided": _values({(line.question_id,): line.undecided / line.matches for line in judged}, cluster_of),
        "sample_tokens": _values(sampled, cluster_of, bounded=False) if tokens_known else None,
        "critique_tokens": _values(critiqued, cluster_of, bounded=False) if tokens_known else None,
    }
    return {name: partial(_itself, values) for name, values in found.items()}


def _nothing() -> None:
    return None


def _itself(values: Values | None) -> Values | None:
    return values


def clusters_of(records: Iterable[PairRecord | QuestionRecord]) -> list[int]:
    """The number of the cluster of each record; records with a common image or group, also indirectly, are in the same cluster."""
    parent: list[int] = []

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = number = parent[parent[number]]
        return number

    first: dict[tuple[str, str], int] = {}
    for number, record in enumerate(records):
        parent.append(number)
        for key in {("group", record.group), *(("image", image.sha256) for image in record.images)}:
            parent[root(number)] = root(first.setdefault(key, number))
    return [root(number) for number in range(len(parent))]


def _values(values: Mapping[tuple, float], cluster_of: Mapping[str, int], bounded: bool = True) -> Values | None:
    return Values(values, cluster_of, bounded) if values else None


def _check_complete(graded: Mapping[tuple, float], questions: set[str]) -> None:
    if unknown := sorted({key[0] for key in graded} - questions):
        raise ValueError(f"there is an answer to the question {unknown[0]}, which is not among the records")
    kinds = {key[1:] for key in graded}
    expected = {(question_id, *kind) for question_id in questions for kind in kinds}
    if missing := expected - graded.keys():
        question_id, kind, sample = min(missing)
        first = f"to question {question_id} ({kind} {sample})"
        raise ValueError(f"{len(missing)} answers are missing, the first {first}; run the same command again to resume")
