# SPDX-License-Identifier: Apache-2.0
"""What methods ask a judge about the sampled answers of one question, and the interface through which they get its verdicts.

A method is a pure function: it is run again from the start each time more verdicts are known, and raises Unanswered for those that it
lacks. So the caller decides how calls are made: for all questions together and into a journal (run.py), or at once (the gateway).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from critic_r1_verl.lines import Kind
from critic_r1_verl.select.candidates import Group


@dataclass(frozen=True, slots=True, order=True)
class Call:
    """One request to the judge. shown: the sample indices in the order in which the judge sees the answers. repeat: 0, 1, ...

    kind and the verdict that it gets: "pair" (which of two is better: "1", "2" or "tie"), "score" (how good one is: "0" to "10"), "choice"
    (which of n is the best: "1" to "n"), "revision" (criticise one and answer again: what is in the box of the new answer).
    """

    kind: Kind
    shown: tuple[int, ...]
    repeat: int = 0


class Unanswered(Exception):
    """Raised by a method that needs the verdicts of these calls before it can go on."""

    def __init__(self, calls: Sequence[Call]) -> None:
        super().__init__(f"{len(calls)} calls")
        self.calls = calls


class Judge:
    """The verdicts on the answers of one question, as far as they are known; a verdict is None if the judge's text held none.

    asked: the calls that a method has used, in the order of their first use. undecided: the comparisons without a winner.
    """

    def __init__(self, verdicts: Mapping[Call, str | None]) -> None:
        self._verdicts = verdicts
        self.asked: dict[Call, None] = {}
        self.compared: dict[frozenset[int], float] = {}

    @property
    def undecided(self) -> int:
        return sum(margin == 0 for margin in self.compared.values())

    def ask(self, calls: Iterable[Call]) -> list[str | None]:
        """The verdicts of these calls. Raises Unanswered with those of the calls that have none yet."""
        wanted = list(calls)
        if missing := [call for call in dict.fromkeys(wanted) if call not in self._verdicts]:
            raise Unanswered(missing)
        self.asked |= dict.fromkeys(wanted)
        return [self._verdicts[call] for call in wanted]

    def compare(self, pairs: Sequence[tuple[Group, Group]], repeats: int = 1, *, both_orders: bool = True) -> list[float]:
        """For each pair of groups the margin of the first, from -1 (all verdicts prefer the second) to 1; 0 is undecided.

        Each of the repeats shows other members of the groups, if there are any. In one order, either group is the first in half of the
        pairs, by the sum of the sample indices. A tie and a text without a verdict count as nothing.
        """
        margins = []
        calls = [_calls(pair, repeats, both_orders) for pair in pairs]
        # All at once, so that a caller learns of all missing verdicts together.
        self.ask(call for of_pair in calls for call in of_pair)
        for (first, second), of_pair in zip(pairs, calls, strict=True):
            points = [_points(verdict, call.shown[0] in first) for call, verdict in zip(of_pair, self.ask(of_pair), strict=True)]
            margins.append(sum(points) / len(points))
            self.compared[frozenset((first[0], second[0]))] = margins[-1]
        return margins


def _calls(pair: tuple[Group, Group], repeats: int, both_orders: bool) -> list[Call]:
    calls = []
    for repeat in range(repeats):
        # The lower index first, so that a pair of samples has the same calls whichever method asks for it.
        low, high = sorted(group[repeat % len(group)] for group in pair)
        shown = [(low, high), (high, low)]
        calls += [Call("pair", each, repeat) for each in (shown if both_orders else [shown[(low + high) % 2]])]
    return calls


def _points(verdict: str | None, first_is_shown_first: bool) -> int:
    if verdict not in ("1", "2"):
        return 0
    return 1 if (verdict == "1") is first_is_shown_first else -1
