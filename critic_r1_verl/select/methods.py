# SPDX-License-Identifier: Apache-2.0
"""The methods that select one of N sampled answers. Pure functions of answers and matches, so stored files give the same results again."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from critic_r1_verl.lines import Answer, Match, Selection
from critic_r1_verl.records import to_record
from critic_r1_verl.verdict import without_tags

METHODS = ("majority", "self_critique")

Samples = Mapping[str, Sequence[Answer]]
"""By question_id, the sampled answers in the order of their index."""

Meeting = tuple[Answer, Answer]
"""Two answers to one question that are judged against each other, the one with the lower index first."""

Verdicts = Mapping[tuple[str, int, int], Sequence[str | None]]
"""By question_id and the indices of two answers: the choice in each order, in the frame of the record ("1": the first answer)."""


def by_question(answers: Iterable[Answer]) -> dict[str, list[Answer]]:
    """The sampled answers of each question, in the order of their index."""
    samples: dict[str, list[Answer]] = {}
    for answer in sorted((answer for answer in answers if answer.kind == "sample"), key=lambda answer: answer.key):
        samples.setdefault(answer.question_id, []).append(answer)
    return samples


def verdicts_of(matches: Iterable[Match]) -> dict[tuple[str, int, int], list[str | None]]:
    """The verdicts of all matches. A meeting that was judged in one order only, because the run was killed, is left out."""
    found: dict[tuple[str, int, int], dict[str, str | None]] = {}
    for match in matches:
        found.setdefault((match.question_id, match.first, match.second), {})[match.order] = to_record(match.order, match.choice)
    return {key: [orders["12"], orders["21"]] for key, orders in found.items() if len(orders) == 2}


def majority(samples: Samples) -> list[Selection]:
    """Select the most frequent parsed answer of each question. In a tie, `correct` is the mean over the tied answers."""
    selections = []
    for question_id, answers in samples.items():
        votes = Counter(answer.answer for answer in answers if answer.answer is not None)
        most = max(votes.values(), default=0)
        first = {text: next(answer for answer in answers if answer.answer == text) for text, count in votes.items() if count == most}
        correct = sum(answer.correct for answer in first.values()) / len(first) if first else 0.0
        picked = next(iter(first.values()), answers[0])
        selections.append(_selection(question_id, "majority", picked, correct, 0, 0))
    return selections


class Knockout:
    """A knock-out tournament among the answers of one question. In each round neighbours meet, and the winners go on to the next round.

    A last answer without a neighbour goes on too. The second answer wins a meeting only if both orders prefer it; else the first one wins.
    Two answers with the same text are not judged, and the first one goes on.
    """

    def __init__(self, question_id: str, answers: Sequence[Answer]) -> None:
        self.question_id = question_id
        self._remaining = list(answers)
        self._judged = self._undecided = 0

    def meetings(self, verdicts: Verdicts) -> list[Meeting]:
        """Play all rounds whose verdicts are known. Returns the meetings to judge before the next round, or [] if one answer is left."""
        while len(self._remaining) > 1:
            pairs = list(zip(self._remaining[::2], self._remaining[1::2], strict=False))
            judged = [pair for pair in pairs if without_tags(pair[0].text) != without_tags(pair[1].text)]
            if missing := [pair for pair in judged if self._key(pair) not in verdicts]:
                return missing
            winners = [self._winner(pair, verdicts) if pair in judged else pair[0] for pair in pairs]
            self._remaining = winners + self._remaining[2 * len(pairs) :]
        return []

    def selection(self) -> Selection:
        """The selected answer; call this only after meetings() has returned []."""
        assert len(self._remaining) == 1, "a round has not been judged yet"
        picked = self._remaining[0]
        return _selection(self.question_id, "self_critique", picked, float(picked.correct), self._judged, self._undecided)

    def _key(self, meeting: Meeting) -> tuple[str, int, int]:
        return self.question_id, meeting[0].sample, meeting[1].sample

    def _winner(self, meeting: Meeting, verdicts: Verdicts) -> Answer:
        self._judged += 1
        preferred = set(verdicts[self._key(meeting)])
        if preferred not in ({"1"}, {"2"}):
            self._undecided += 1
        return meeting[1] if preferred == {"2"} else meeting[0]


def self_critique(samples: Samples, verdicts: Verdicts) -> list[Selection]:
    """Select the winner of each question's knock-out. ValueError names the first meeting whose verdicts are missing."""
    selections = []
    for question_id, answers in samples.items():
        knockout = Knockout(question_id, answers)
        if missing := knockout.meetings(verdicts):
            first, second = missing[0]
            raise ValueError(
                f"question {question_id}: the match of samples {first.sample} and {second.sample} is missing; run `critic-r1 select` again"
            )
        selections.append(knockout.selection())
    return selections


def _selection(question_id: str, method: str, picked: Answer, correct: float, matches: int, undecided: int) -> Selection:
    return Selection(
        question_id=question_id,
        method=method,
        sample=picked.sample,
        answer=picked.answer,
        correct=correct,
        matches=matches,
        undecided=undecided,
    )
