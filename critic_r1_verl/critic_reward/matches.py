# SPDX-License-Identifier: Apache-2.0
"""Which responses are compared, what the verdicts pay them, and what the verdicts of a step say about critic and policy."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

_POINTS = {"1": 1, "2": -1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """A rollout: the id of its question, and its text as the critic sees it.

    readable: whether an answer can be read in it. right: whether that is the truth, None if nobody knows; only the metrics use it.
    """

    question_id: str
    text: str
    readable: bool
    right: bool | None


class Asked(NamedTuple):
    """What a verdict is about: a question and two responses, in the order in which the critic sees them."""

    question_id: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Match:
    """Two responses to a question, and the choices of the critic that sees them in this order, and in the other one."""

    asked: Asked
    choice: str | None
    choice_exchanged: str | None

    @property
    def margin(self) -> float:
        """From -1 (both orders prefer the second response) to 1 (both prefer the first). A tie or no choice counts as nothing."""
        return (_POINTS.get(self.choice or "", 0) - _POINTS.get(self.choice_exchanged or "", 0)) / 2

    @property
    def consistent(self) -> bool:
        return (self.choice, self.choice_exchanged) in (("1", "2"), ("2", "1"), ("tie", "tie"))


def pairs(texts: Iterable[str], opponents: int) -> list[tuple[str, str]]:
    """The pairs of different texts that are compared: each with so many after it in a ring, or with all others if there are no more.

    >>> pairs(["a", "b", "b", "c", "d"], 1)
    [('a', 'b'), ('b', 'c'), ('c', 'd'), ('d', 'a')]
    """
    ring = list(dict.fromkeys(texts))
    found: dict[frozenset[str], tuple[str, str]] = {}
    for step in range(1, min(opponents, len(ring) // 2) + 1):
        for place, text in enumerate(ring):
            pair = text, ring[(place + step) % len(ring)]
            # In a ring of even length, opposite ones would meet twice.
            found.setdefault(frozenset(pair), pair)
    return list(found.values())


def wins(matches: Iterable[Match]) -> dict[tuple[str, str], float]:
    """The win of each response that was compared, in [0, 1], by (id of its question, text)."""
    margins: dict[tuple[str, str], list[float]] = defaultdict(list)
    for match in matches:
        margins[match.asked.question_id, match.asked.first].append(match.margin)
        margins[match.asked.question_id, match.asked.second].append(-match.margin)
    return {response: (1 + fmean(of_response)) / 2 for response, of_response in margins.items()}


def metrics(responses: Sequence[Response], matches: Sequence[Match]) -> dict[str, float]:
    """What a step says about its critic and its policy; those that are about nothing in this step are left out.

    judge/unparsed, first, tie   shares of the verdicts
    judge/consistent, decided    shares of the matches whose two orders agree, and whose margin is not 0
    judge/longer                 of the decided matches, the share that the longer response wins; 0.5 if length does not matter
    judge/agreement              of the matches of a right and a wrong response, the mean of the right one's win: how far the critic knows
    judge/distinct               the number of different responses, over all responses
    judge/readable               the share of the responses in which an answer can be read
    """
    verdicts = [choice for match in matches for choice in (match.choice, match.choice_exchanged)]
    decided = [match for match in matches if match.margin]
    right = {(response.question_id, response.text): response.right for response in responses}
    # The length of the winner less that of the loser, in characters.
    longer = [match.margin * (len(match.asked.first) - len(match.asked.second)) for match in decided]
    known = [
        (1 + match.margin) / 2 if first else (1 - match.margin) / 2
        for match in matches
        if {first := right.get((match.asked.question_id, match.asked.first)), right.get((match.asked.question_id, match.asked.second))}
        == {True, False}
    ]
    means: dict[str, Sequence[float]] = {
        "unparsed": [choice is None for choice in verdicts],
        "first": [choice == "1" for choice in verdicts],
        "tie": [choice == "tie" for choice in verdicts],
        "consistent": [match.consistent for match in matches],
        "decided": [match.margin != 0 for match in matches],
        "longer": [difference > 0 for difference in longer if difference],
        "agreement": known,
        "readable": [response.readable for response in responses],
    }
    return {f"judge/{name}": fmean(values) for name, values in means.items() if values} | {"judge/distinct": len(right) / len(responses)}
