# SPDX-License-Identifier: Apache-2.0
"""Says why a selection gains or loses: what there is to gain, how good the judge is on the model's own answers, and where it fails.

`critic-r1 select --diagnose` writes diagnosis.json: {name: {"title", "value", "n", "ci95"}} for each name in MEASURES, value null if there
is nothing to measure. The own pairs are those of the method `duel`: on each open question the most frequent right answer and the most
frequent wrong one, in both orders. The held-out pairs are those that `critic-r1 eval` has judged in the same run folder.
"""

import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from critic_r1_verl.lines import Judgement, Match
from critic_r1_verl.records import to_record
from critic_r1_verl.scoring.estimates import Values
from critic_r1_verl.scoring.measures import clusters_of
from critic_r1_verl.scoring.run import Run
from critic_r1_verl.select import methods
from critic_r1_verl.select.candidates import Candidates, by_question, candidates_of
from critic_r1_verl.select.plan import verdicts_of
from critic_r1_verl.verdict import without_tags

FILE = "diagnosis.json"

MEASURES = {
    "all_right": "questions of which all samples are right",
    "all_wrong": "questions of which no sample is right",
    "open": "open questions: some samples are right, some wrong",
    "open_sample": "open questions: samples that are right",
    "open_vote": "open questions: the vote is right",
    "own_right": "own pairs: right verdicts",
    "held_out_right": "held-out pairs: right verdicts",
    "own_right_vote_right": "own pairs: right verdicts where the vote is right",
    "own_right_vote_wrong": "own pairs: right verdicts where the vote is wrong",
    "own_disagree": "own pairs: the orders disagree",
    "held_out_disagree": "held-out pairs: the orders disagree",
    "own_both_wrong": "own pairs: both orders are wrong",
    "wrong_disagree": "two wrong answers: the orders disagree",
    "undecided_right": "undecided, right against wrong: the first one is right",
    "own_words": "words of an own answer",
    "held_out_words": "words of a held-out response",
    "own_phrases_known": "own answers: phrases of three words that occur in held-out responses",
}
"""The measures and their titles: shares of what comes before the colon, and numbers of words."""

WORDS = ("own_words", "held_out_words")
_WORD = re.compile(r"\w+|[^\w\s]")
_DIGITS = re.compile(r"\d+")

_Each = dict[str, dict[tuple, float]]


def diagnose(run: Run) -> dict[str, Any]:
    """The content of diagnosis.json, computed from the files of a complete selection with the method `duel`."""
    questions, pairs = run.questions, list(run.pairs)
    clusters: dict[str, Hashable] = dict(zip((question.question_id for question in questions), clusters_of(questions), strict=True))
    clusters |= dict(zip((pair.pair_id for pair in pairs), clusters_of(pairs), strict=True))
    samples = by_question(run.answers())
    candidates = {question_id: candidates_of(answers) for question_id, answers in samples.items()}
    values = _of_samples(candidates) | _of_matches(candidates, run.matches())
    values |= _of_judgements(run.judgements() if run.has(Judgement) else ())
    own = {(question_id, answer.sample): without_tags(answer.text) for question_id, answers in samples.items() for answer in answers}
    held_out = {(pair.pair_id, order): pair.shown(order).response_1 for pair in pairs for order in ("12", "21")}
    values |= _of_texts(own, held_out)
    found: dict[str, Any] = {}
    for name, title in MEASURES.items():
        of_name = values.get(name)
        known = Values(of_name, clusters, bounded=name not in WORDS).estimate().to_json() if of_name else {}
        found[name] = {"title": title, "value": None, "n": 0, "ci95": None} | known
    return found


def _of_samples(candidates: Mapping[str, Candidates]) -> _Each:
    values: _Each = {name: {} for name in ("all_right", "all_wrong", "open", "open_sample", "open_vote")}
    for question_id, of_question in candidates.items():
        right, num_samples = len(of_question.right), of_question.num_samples
        values["all_right"][question_id,] = float(right == num_samples)
        values["all_wrong"][question_id,] = float(right == 0)
        values["open"][question_id,] = float(0 < right < num_samples)
        if 0 < right < num_samples:
            values["open_sample"][question_id,] = right / num_samples
            values["open_vote"][question_id,] = _vote(of_question)
    return values


def _vote(candidates: Candidates) -> float:
    tied = candidates.largest()
    return sum(group[0] in candidates.right for group in tied) / len(tied)


def _of_matches(candidates: Mapping[str, Candidates], matches: Iterable[Match]) -> _Each:
    """What the verdicts on pairs show. A match is a pair of answers in both orders."""
    values: _Each = {name: {} for name in MEASURES if name.startswith("own_") or name in ("wrong_disagree", "undecided_right")}
    for question_id, verdicts in verdicts_of(matches).items():
        right = candidates[question_id].right
        duel = {group[0] for group in methods.sides(candidates[question_id])}
        orders: dict[tuple, list[int | None]] = {}
        for call, match in sorted(verdicts.items()):
            if call.kind == "pair":
                winner = call.shown[int(match.choice) - 1] if match.choice in ("1", "2") else None
                orders.setdefault((call.repeat, *sorted(call.shown)), []).append(winner)
        for (repeat, first, second), winners in orders.items():
            if len(winners) < 2:
                continue
            key = (question_id, first, second, repeat)
            disagree = float(winners[0] is None or winners[0] != winners[1])
            if (first in right) is (second in right):
                if first not in right:
                    values["wrong_disagree"][key] = disagree
                continue
            if disagree:
                values["undecided_right"][key] = float(first in right)
            if {first, second} != duel:
                continue
            share = sum(winner in right for winner in winners) / 2
            values["own_right"][key] = share
            values["own_disagree"][key] = disagree
            values["own_both_wrong"][key] = float(not disagree and share == 0)
            if (vote := _vote(candidates[question_id])) in (0, 1):
                values["own_right_vote_right" if vote else "own_right_vote_wrong"][key] = share
    return values


def _of_judgements(judgements: Iterable[Judgement]) -> _Each:
    right: dict[tuple, float] = {}
    preferred: dict[tuple, list[str | None]] = {}
    for line in judgements:
        right[line.pair_id, line.order, line.repeat] = float(line.correct)
        preferred.setdefault((line.pair_id, line.repeat), []).append(to_record(line.order, line.choice))
    disagree = {key: float(None in choices or len({*choices}) > 1) for key, choices in preferred.items() if len(choices) == 2}
    return {"held_out_right": right, "held_out_disagree": disagree}


def _of_texts(own: Mapping[tuple, str], held_out: Mapping[tuple, str]) -> _Each:
    """Whether the answers that the judge is shown look like the responses of the held-out pairs; all numbers count as the same word."""
    known = {phrase for text in held_out.values() for phrase in _phrases(text)}
    phrases = {key: _phrases(text) for key, text in own.items()}
    return {
        "own_words": {key: float(len(text.split())) for key, text in own.items()},
        "held_out_words": {key: float(len(text.split())) for key, text in held_out.items()},
        "own_phrases_known": {key: len(found & known) / len(found) for key, found in phrases.items() if found and known},
    }


def _phrases(text: str) -> set[tuple[str, ...]]:
    words = _WORD.findall(_DIGITS.sub("0", text).casefold())
    return {tuple(words[place : place + 3]) for place in range(len(words) - 2)}
