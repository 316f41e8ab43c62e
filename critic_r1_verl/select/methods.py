# SPDX-License-Identifier: Apache-2.0
"""The methods that select one of N sampled answers, as pure functions of the candidates and the judge's verdicts.

The candidates are those of one question. A method returns the answers that it holds for the best: one or, in a tie, several, and what it is
worth is then the mean over them. Without a judge (no verdict is asked for):
    single               the first sample
    random               any sample
    majority             the most frequent answer
    oracle               a right answer if there is one: the upper bound, which needs the truth
With verdicts on pairs, each in both orders unless it says otherwise:
    knockout             rounds of neighbours, the self-critique of the paper: the second answer wins if more verdicts prefer it
    knockout_one_order   the same with one verdict for a match
    round_robin          each group of equal answers meets each other one; the highest mean margin wins
    swiss                as many rounds as a knock-out; those with similar margins meet
    weighted_vote        votes times the share of points in a round robin
    vote_then_judge      the default: votes as prior, and matches of the leading group with those that may overtake it
With other verdicts:
    pointwise            the group with the highest mean score, each of its first members being scored by itself
    one_shot             one choice among all groups, shown in two orders
    refine               the most frequent answer is criticised and answered again
For a diagnosis:
    duel                 the most frequent right answer against the most frequent wrong one, which needs the truth
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from critic_r1_verl.select.calls import Call, Judge
from critic_r1_verl.select.candidates import Candidates, Group
from critic_r1_verl.select.skill import MAX_WEIGHT, accuracy_of

Picks = tuple[int | Call, ...]
"""The selected answers: a sample index, or a call of kind "revision" for the answer that it gives. Several are tied."""


@dataclass(frozen=True, slots=True)
class Options:
    """repeats: verdicts on each pair in each order, or scores of each answer. weight, reach and price: of vote_then_judge.

    A judge whose verdicts all prefer one of two answers outweighs votes of up to exp(2 * weight) to one when an answer is selected, and of
    up to exp(2 * reach) to one when it is decided whether to ask; reach is at least weight. price: how many right answers more, from 0 to
    1, the verdicts on a pair must promise to be asked for.
    """

    repeats: int = 1
    weight: float = MAX_WEIGHT
    reach: float = MAX_WEIGHT
    price: float = 0.0


Method = Callable[[Candidates, Judge, Options], Picks]


def single(candidates: Candidates, judge: Judge, options: Options) -> Picks:
    return (0,)


def random(candidates: Candidates, judge: Judge, options: Options) -> Picks:
    return tuple(range(candidates.num_samples))


def oracle(candidates: Candidates, judge: Judge, options: Options) -> Picks:
    return (min((sample for sample in candidates.right if sample < candidates.num_samples), default=0),)


def majority(candidates: Candidates, judge: Judge, options: Options) -> Picks:
    return _firsts(candidates.largest())


def knockout(candidates: Candidates, judge: Judge, options: Options, both_orders: bool = True) -> Picks:
    """In each round neighbours meet, and the winners go on; so does a last answer without a neighbour. Equal answers are not compared."""
    remaining = [(sample,) for group in candidates.groups for sample in group]
    remaining.sort()
    while len(remaining) > 1:
        matches = list(zip(remaining[::2], remaining[1::2], strict=False))
        differ = [pair for pair in matches if candidates.group_of(pair[0][0]) != candidates.group_of(pair[1][0])]
        margins = dict(zip(differ, judge.compare(differ, options.repeats, both_orders=both_orders), strict=True))
        winners = [pair[1] if margins.get(pair, 0) < 0 else pair[0] for pair in matches]
        remaining = winners + remaining[2 * len(matches) :]
    return remaining[0]


def knockout_one_order(candidates: Candidates, judge: Judge, options: Options) -> Picks:
    return knockout(candidates, judge, options, both_orders=False)


def round_robin(candidates: Candidates, judge: Judge, options: Options) -> Picks:
    points = _league(candidates.groups, judge, options)
    return _best(candidates.groups, [(points[group], len(group)) for group in candidates.groups])


def swiss(candidates: Candidates, judge: Judge, options: Options) -> Picks:
    """In each round the groups are sorted by their points, then votes, and each meets the next one that it has not met."""
    points = {group: 0.0 for group in candidates.groups}
    met: set[frozenset[Group]] = set()
    for _ in range(math.ceil(math.log2(len(points))) if len(points) > 1 else 0):
        waiting = sorted(points, key=lambda group: (-points[group], -len(group), group))
        pairs = []
        while waiting:
            group = waiting.pop(0)
            rival = next((other for other in waiting if frozenset((group, other)) not in met), None)
            if rival:
                waiting.remove(rival)
                pairs.append((group, rival))
        met |= {frozenset(pair) for pair in pairs}
        _add_margins(points, pairs, judge, options)
    return _best(candidates.groups, [(points[group], len(group)) for group in candidates.groups])


def weighted_vote(candidates: Candidates, judge: Judge, options: Options) -> Picks:
    points = _league(candidates.groups, judge, options)
    rivals = max(1, len(candidates.groups) - 1)
    return _best(candidates.groups, [len(group) * (1 + points[group] / rivals) / 2 for group in candidates.groups])


def vote_then_judge(candidates: Candidates, judge: Judge, options: Options) -> Picks:
    """Votes are the prior: the logarithm of their number, to which each match adds weight times its margin.

    The group in the lead meets the next one that may overtake it, as long as this is worth the price. So clear votes cost nothing.
    """
    margins: dict[tuple[Group, Group], float] = {}
    while pair := _challenge(candidates, margins, options):
        [margins[pair]] = judge.compare([pair], options.repeats)
    points = _points(candidates, margins, options.weight)
    return _best(list(points), list(points.values()))


MAX_CONTENDERS = 4
"""The groups that vote_then_judge compares: those with the most votes."""


def _points(candidates: Candidates, margins: Mapping[tuple[Group, Group], float], weight: float) -> dict[Group, float]:
    points = {group: math.log(len(group)) for group in candidates.groups}
    for (first, second), margin in margins.items():
        points[first] += weight * margin
        points[second] -= weight * margin
    return points


def _challenge(candidates: Candidates, margins: Mapping[tuple[Group, Group], float], options: Options) -> tuple[Group, Group] | None:
    """The group in the lead and the next one that it has not met, if their match is worth the price.

    Points are the logarithm of the probability to be right. If that is p for the group in the lead and q for another one, and verdicts are
    right with probability a, their match gains q a^2 - p (1 - a)^2: what the cases bring in which both verdicts prefer the other one.
    """
    points = _points(candidates, margins, options.reach)
    contenders = sorted(candidates.groups, key=lambda group: (-len(group), group))[:MAX_CONTENDERS]
    leader, *others = sorted(contenders, key=lambda group: (-round(points[group], 9), -len(group), group))
    rival = next((group for group in others if not margins.keys() & {(leader, group), (group, leader)}), None)
    if rival is None:
        return None
    odds = [math.exp(value - points[leader]) for value in points.values()]
    accuracy = accuracy_of(options.reach)
    gain = (math.exp(points[rival] - points[leader]) * accuracy**2 - (1 - accuracy) ** 2) / sum(odds)
    return (leader, rival) if round(gain, 9) > options.price else None


def pointwise(candidates: Candidates, judge: Judge, options: Options) -> Picks:
    calls = {group: [Call("score", (group[k % len(group)],), k) for k in range(options.repeats)] for group in candidates.groups}
    if len(calls) < 2:
        return majority(candidates, judge, options)
    judge.ask(call for of_group in calls.values() for call in of_group)
    means = [sum(float(score or 0) for score in judge.ask(of_group)) / options.repeats for of_group in calls.values()]
    return _best(candidates.groups, [(mean, len(group)) for mean, group in zip(means, candidates.groups, strict=True)])


def one_shot(candidates: Candidates, judge: Judge, options: Options) -> Picks:
    """The judge sees the first answer of each group, in their order and in the opposite one. Without a verdict the votes decide."""
    shown = tuple(group[0] for group in candidates.groups)
    if len(shown) < 2:
        return majority(candidates, judge, options)
    calls = [Call("choice", order, repeat) for repeat in range(options.repeats) for order in (shown, shown[::-1])]
    chosen = [call.shown[int(place) - 1] for call, place in zip(calls, judge.ask(calls), strict=True) if place]
    return _best(candidates.groups, [(chosen.count(group[0]), len(group)) for group in candidates.groups])


def refine(candidates: Candidates, judge: Judge, options: Options) -> Picks:
    """A revision without a readable answer leaves the answer as it was."""
    calls = [Call("revision", (group[0],)) for group in candidates.largest()]
    return tuple(call if answer else call.shown[0] for call, answer in zip(calls, judge.ask(calls), strict=True))


def duel(candidates: Candidates, judge: Judge, options: Options) -> Picks:
    pair = sides(candidates)
    if len(pair) < 2:
        return majority(candidates, judge, options)
    [margin] = judge.compare([(pair[0], pair[1])], options.repeats)
    return _firsts(pair if margin == 0 else pair[:1] if margin > 0 else pair[1:])


def sides(candidates: Candidates) -> list[Group]:
    """The largest group of right answers and the largest one of wrong answers; only one of them if there is no other."""
    largest = sorted(candidates.groups, key=lambda group: (-len(group), group))
    of_side = ([group for group in largest if (group[0] in candidates.right) is right] for right in (True, False))
    return [groups[0] for groups in of_side if groups]


METHODS: dict[str, Method] = {
    method.__name__: method
    for method in (
        single,
        random,
        majority,
        oracle,
        knockout,
        knockout_one_order,
        round_robin,
        swiss,
        weighted_vote,
        vote_then_judge,
        pointwise,
        one_shot,
        refine,
        duel,
    )
}
DEFAULT = "vote_then_judge"


def _league(groups: Sequence[Group], judge: Judge, options: Options) -> dict[Group, float]:
    """For each group the sum of its margins against each other one."""
    points = {group: 0.0 for group in groups}
    _add_margins(points, list(combinations(groups, 2)), judge, options)
    return points


def _add_margins(points: dict[Group, float], pairs: Sequence[tuple[Group, Group]], judge: Judge, options: Options) -> None:
    for (first, second), margin in zip(pairs, judge.compare(pairs, options.repeats), strict=True):
        points[first] += margin
        points[second] -= margin


def _best(groups: Sequence[Group], values: Sequence) -> Picks:
    """The first sample of each group with the highest value, a number or (number, votes). Rounding makes ties of sums in another order."""
    rounded = [(round(value[0], 9), value[1]) if isinstance(value, tuple) else round(value, 9) for value in values]
    return _firsts([group for group, value in zip(groups, rounded, strict=True) if value == max(rounded)])


def _firsts(groups: Sequence[Group]) -> Picks:
    return tuple(group[0] for group in groups)
