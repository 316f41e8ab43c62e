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
    accuracy_chosen_first    accuracy where the better response was shown first; accuracy_chosen_second: where it was shown second
    accuracy_chosen_longer   accuracy on pairs whose better response is the longer one; accuracy_chosen_shorter: the shorter one
    completion_tokens        the mean number of tokens of a judgement
    strict/GROUP, accuracy/GROUP   the same within a group of the benchmark
Of a policy (answers are graded by the reward of training):
    greedy                   greedy answers that are right
    refused                  greedy answers that the server or the model refused, wrong therefore; null if none
    sample                   sampled answers that are right
    METHOD                   answers selected by this method (select/methods.py), among the largest number of samples, that are right
    undecided/METHOD         its comparisons without a winner, because the two orders do not agree or there is no verdict
    answer_tokens            the mean number of tokens of all samples of a question, with their prompt
    judge_tokens/METHOD      the mean number of tokens of the verdicts that this method used for a question, with their prompts
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from critic_r1_verl.benchmarks import tally
from critic_r1_verl.benchmarks.tally import Case
from critic_r1_verl.lines import ENDS, STATUSES, Answer, Selection
from critic_r1_verl.records import PairRecord, QuestionRecord, to_record
from critic_r1_verl.scoring.estimates import Values
from critic_r1_verl.scoring.judged import ByPair, Judged, strict, voted

Measures = dict[str, Callable[[], Values | None]]
"""For each measure, a function that returns its values, None if there are none; so the values of only one measure are held at a time."""

TOKENS = ("completion_tokens", "answer_tokens", "judge_tokens")
"""The first parts of the names of measures that are numbers of tokens and not shares."""


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

    def right_where(shown: str) -> Callable[[Judged, Case], float | None]:
        return lambda line, case: right(line, case) if to_record(line.order, case.preferred) == shown else None

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
        "accuracy_chosen_first": partial(of_lines, right_where("1")),
        "accuracy_chosen_second": partial(of_lines, right_where("2")),
        "accuracy_chosen_longer": partial(of_lines, right, lambda case: longer(case) > 0),
        "accuracy_chosen_shorter": partial(of_lines, right, lambda case: longer(case) < 0),
        "completion_tokens": partial(of_lines, lambda line, case: line.tokens, bounded=False),
    }
    groups = sorted({case.group for case in cases})
    for group in groups if len(groups) > 1 else ():
        found[f"strict/{group}"] = partial(of_items, lambda case: both_right[case.key], in_group(group))
        found[f"accuracy/{group}"] = partial(of_lines, right, in_group(group))
    return found


def policy(questions: Sequence[QuestionRecord], answers: Iterable[Answer], selections: Iterable[Selection]) -> Measures:
    """The measures of a policy.

    ValueError names a question that lacks an answer which other questions have, and an answer to an unknown question.
    """
    ids = [question.question_id for question in questions]
    cluster_of = dict(zip(ids, clusters_of(questions), strict=True))
    answers = list(answers)
    graded = {answer.key: float(answer.correct) for answer in answers}
    _check_complete(graded, set(ids))
    found = {kind: _values({key: value for key, value in graded.items() if key[1] == kind}, cluster_of) for kind in ("greedy", "sample")}
    refused = {answer.key: float(answer.status == "refused") for answer in answers if answer.kind == "greedy"}
    found["refused"] = _values(refused, cluster_of) if any(refused.values()) else None
    for method, of_method in of_methods(selections).items():
        compared = [line for line in of_method if line.comparisons]
        found |= {
            method: _values({(line.question_id,): line.correct for line in of_method}, cluster_of),
            f"undecided/{method}": _values({(line.question_id,): line.undecided / line.comparisons for line in compared}, cluster_of),
            f"judge_tokens/{method}": _tokens({(line.question_id,): line.judge_tokens for line in of_method}, cluster_of),
            "answer_tokens": _tokens({(line.question_id,): line.answer_tokens for line in of_method}, cluster_of),
        }
    return {name: partial(_itself, values) for name, values in found.items()}


def of_methods(selections: Iterable[Selection]) -> dict[str, list[Selection]]:
    """The selections of each method among the largest number of samples."""
    found: dict[str, list[Selection]] = {}
    for line in sorted(selections, key=lambda line: (line.method, -line.samples, line.question_id)):
        of_method = found.setdefault(line.method, [])
        if not of_method or line.samples == of_method[0].samples:
            of_method.append(line)
    return found


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


def _tokens(values: Mapping[tuple, int | None], cluster_of: Mapping[str, int]) -> Values | None:
    known = {key: float(value) for key, value in values.items() if value is not None}
    return Values(known, cluster_of, bounded=False) if known and len(known) == len(values) else None


def _check_complete(graded: Mapping[tuple, float], questions: set[str]) -> None:
    if unknown := sorted({key[0] for key in graded} - questions):
        raise ValueError(f"there is an answer to the question {unknown[0]}, which is not among the records")
    kinds = {key[1:] for key in graded}
    expected = {(question_id, *kind) for question_id in questions for kind in kinds}
    if missing := expected - graded.keys():
        question_id, kind, sample = min(missing)
        first = f"to question {question_id} ({kind} {sample})"
        raise ValueError(f"{len(missing)} answers are missing, the first {first}; run the same command again to resume")
