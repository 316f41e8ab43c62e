# SPDX-License-Identifier: Apache-2.0
"""The default method in synthetic worlds: what it gains on the vote of as many tokens, by the skill of the judge and cost of verdicts."""

import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from critic_r1_verl.lines import Match
from critic_r1_verl.select.budget import FIRST, Verdicts, estimated_budget, value_of_sample
from critic_r1_verl.select.calls import Call, Judge, Unanswered
from critic_r1_verl.select.candidates import Candidates
from critic_r1_verl.select.methods import Options, vote_then_judge
from critic_r1_verl.select.skill import MAX_WEIGHT, TIE_BREAK, weights_of

SAMPLE_TOKENS = 10
NUM_QUESTIONS = 300
MOST = 40
"""The samples of a question for which the vote is known."""


@dataclass(frozen=True)
class World:
    """A verdict is right with accuracy + bias if what the judge prefers stands first, else with accuracy - bias, and costs so many samples.

    correlation: the share of questions on which the judge prefers what the generator prefers, right or wrong. misled: the share on which
    it prefers the most frequent wrong answer. ability: the parameters of the beta distribution of the chance that a sample is right; there
    are three wrong answers.
    """

    accuracy: float
    bias: float = 0.0
    correlation: float = 0.0
    misled: float = 0.0
    cost: float = 1.0
    ability: tuple[float, float] = (2.0, 1.5)
    seed: int = 0


class Simulation:
    """Questions with MOST sampled answers, of which 0 is right, and a judge of them."""

    def __init__(self, world: World) -> None:
        self.world, self.draw = world, random.Random(repr(world))
        # With leading zeros, because ids are sorted as texts.
        self.ids = [f"{number:03}" for number in range(NUM_QUESTIONS)]
        self.samples: dict[str, list[int]] = {}
        self.preferred: dict[str, int] = {}
        for question_id in self.ids:
            right = self.draw.betavariate(*world.ability)
            chances = [right, 0.6 * (1 - right), 0.25 * (1 - right), 0.15 * (1 - right)]
            self.samples[question_id] = self.draw.choices(range(4), chances, k=MOST)
            place = self.draw.random()
            follows = chances.index(max(chances)) if place < world.correlation else 0
            self.preferred[question_id] = 1 if place >= 1 - world.misled else follows
        self.votes = [statistics.fmean(vote(self.samples[each][:number]) for each in self.ids) for number in range(1, MOST + 1)]

    def candidates(self, number: int) -> dict[str, Candidates]:
        found = {}
        for question_id in self.ids:
            samples = self.samples[question_id][:number]
            groups = [tuple(place for place, each in enumerate(samples) if each == answer) for answer in dict.fromkeys(samples)]
            found[question_id] = Candidates(number, tuple(groups), frozenset(), 1, SAMPLE_TOKENS)
        return found

    def judged(self, question_id: str, call: Call) -> Match:
        shown = [self.samples[question_id][sample] for sample in call.shown]
        # Of two answers that it does not prefer, it takes one by a coin.
        better = self.preferred[question_id] if self.preferred[question_id] in shown else self.draw.choice(shown)
        is_right = self.draw.random() < self.world.accuracy + (self.world.bias if shown[0] == better else -self.world.bias)
        tokens = int(self.world.cost * SAMPLE_TOKENS)
        choice = "1" if (shown[0] == better) is is_right else "2"
        said = {"choice": choice, "status": "parsed", "text": "", "model": "m", "template_sha": "0"}
        spent = {"prompt_tokens": tokens - 1, "image_tokens": 0, "completion_tokens": 1}
        return Match(question_id=question_id, kind=call.kind, shown=call.shown, repeat=call.repeat, **said, **spent)

    def selected(self, *numbers: int) -> tuple[dict[int, tuple[float, float]], Verdicts]:
        """For each number of samples, the share of right selections and the samples' worth of tokens of a question; and the verdicts."""
        candidates = self.candidates(max(numbers))
        verdicts: dict[str, dict[Call, Match]] = {question_id: {} for question_id in self.ids}
        num_judged = -1
        while num_judged < (num_judged := sum(map(len, verdicts.values()))):
            budget = estimated_budget(numbers, 1, candidates, verdicts)
            found = [
                (number, *self.selection(candidates[question_id].first(number), budget.of(question_id, number), question_id, matches))
                for question_id, matches in verdicts.items()
                for number in numbers
            ]
        return {
            number: tuple(statistics.fmean(each[place] for each in found if each[0] == number) for place in (1, 2)) for number in numbers
        }, verdicts

    def selection(self, vote: Candidates, options: Options, question_id: str, matches: dict[Call, Match]) -> tuple[float, float]:
        while True:
            judge = Judge({call: match.choice for call, match in matches.items()})
            try:
                picks = vote_then_judge(vote, judge, options)
            except Unanswered as error:
                matches |= {call: self.judged(question_id, call) for call in error.calls}
            else:
                right = statistics.fmean(self.samples[question_id][pick] == 0 for pick in picks)
                return right, vote.num_samples + len(judge.asked) * self.world.cost

    def gain(self, number: int) -> float:
        """How much oftener the default is right than the vote of as many tokens."""
        right, samples = self.selected(number)[0][number]
        place = min(samples - 1, MOST - 1.001)
        low, part = int(place), place % 1
        return right - (1 - part) * self.votes[low] - part * self.votes[low + 1]


def vote(samples: Sequence[int]) -> float:
    most = max(map(samples.count, samples))
    winners = {each for each in samples if samples.count(each) == most}
    return (0 in winners) / len(winners)


@pytest.mark.parametrize(
    ("world", "number", "low", "high"),
    [
        # Two samples: a third one is worth more than verdicts, so nothing is asked.
        (World(0.9, cost=2), 2, 0.0, 0.0),
        # Without skill, whatever its bias and the cost of its verdicts, it loses the tokens of a few verdicts.
        (World(0.5, cost=4), 4, -0.02, 0.01),
        (World(0.5, cost=2, bias=0.4), 8, -0.02, 0.01),
        (World(0.5, cost=6), 8, -0.02, 0.01),
        (World(0.5, cost=2, ability=(4.0, 0.7)), 8, -0.02, 0.01),
        # It agrees with itself, also where the generator is wrong.
        (World(0.9, cost=2, correlation=1.0), 8, 0.0, 0.05),
        # With skill it gains, and more if verdicts are cheap.
        (World(0.8, cost=1), 8, 0.04, 0.12),
        (World(0.8, bias=0.15, cost=2), 8, 0.005, 0.12),
        (World(0.85, cost=4), 8, 0.0, 0.12),
        (World(0.95, cost=6), 8, 0.0, 0.12),
        (World(0.9, cost=2, ability=(4.0, 0.7)), 8, 0.01, 0.04),
    ],
)
def test_at_equal_tokens_the_default_is_not_below_the_vote_and_above_it_where_the_judge_has_skill(
    world: World, number: int, low: float, high: float
) -> None:
    gains = [Simulation(replace(world, seed=seed)).gain(number) for seed in range(2)]
    assert low <= statistics.fmean(gains) <= high, gains


def test_one_weight_counts_for_all_numbers_of_samples() -> None:
    simulation = Simulation(World(0.85, cost=1))
    _, verdicts = simulation.selected(4, 8)
    both = estimated_budget((4, 8), 1, simulation.candidates(8), verdicts)
    assert {terms.weight for terms in both.options.values()} == {both.weight} and both.weight > 0.7
    assert FIRST < sum(number == 8 for _, number in both.options) < both.num_pairs
    first = estimated_budget((4, 8), 1, simulation.candidates(8), {})
    assert [sum(each == number for _, each in first.options) for number in (4, 8)] == [FIRST, FIRST]
    # The prices differ, because a fifth sample is worth more than a ninth.
    prices = {number: max(terms.price for (_, each), terms in both.options.items() if each == number) for number in (4, 8)}
    assert prices[4] > prices[8]


def test_tokens_that_are_not_counted_do_not_matter() -> None:
    uncounted = {"1": Candidates(8, ((0, 1, 2, 3), (4, 5, 6, 7))), "2": Candidates(8, (tuple(range(8)),))}
    budget = estimated_budget((8,), 1, uncounted, {})
    assert {key: terms.price for key, terms in budget.options.items()} == {("1", 8): 0.0}
    assert budget.of("2", 8).price == math.inf
    assert estimated_budget((8,), 1, {}, {}).options == {}


@pytest.mark.parametrize(
    ("sizes", "value"),
    [
        ([(8,)], 0.0),
        # Of two samples, a third may at best make the vote sure; one sample alone and unreadable ones say nothing.
        ([(1, 1)], 1.0),
        ([(2,), (1, 1), (1,)], 1 / 3),
        # The vote of three is right for a fourth in 3 of 4 cases; one sample for another in 1 of 2.
        ([(1, 3)], 0.25),
        # Of many samples, in many groups, too.
        ([tuple(range(1, 33))], 0.0),
        # Agreement that falls is worth nothing.
        ([(1, 1, 1, 1)], 0.0),
    ],
)
def test_what_another_sample_is_worth(sizes: list[tuple[int, ...]], value: float) -> None:
    votes = []
    for each in sizes:
        ends = [sum(each[: place + 1]) for place in range(len(each))]
        votes.append(Candidates(ends[-1], tuple(tuple(range(end - size, end)) for size, end in zip(each, ends, strict=True))))
    assert value_of_sample(votes) == pytest.approx(value, abs=1e-3)


@pytest.mark.parametrize("accuracy", [0.5, 0.65, 0.8, 0.95])
@pytest.mark.parametrize("bias", [0.0, 0.05])
def test_the_weight_follows_the_accuracy_of_the_judge(accuracy: float, bias: float) -> None:
    """Verdicts in their exact proportions: the expected weight is that of the accuracy, and the proven one is below it."""
    first, second = accuracy + bias, accuracy - bias
    # Half of the pairs have the right answer first; each outcome is the choices in the two orders.
    chances = {("1", "2"): first * second, ("1", "1"): first * (1 - second), ("2", "2"): (1 - first) * second}
    chances["2", "1"] = 1 - sum(chances.values())
    pairs = [choices for choices, chance in chances.items() for _ in range(round(2000 * chance))]
    pairs += [choices[::-1] if len({*choices}) > 1 else choices for choices in pairs]
    proven, expected = weights_of(pairs)
    exact = math.log(accuracy / (1 - accuracy))
    assert TIE_BREAK <= proven <= expected <= MAX_WEIGHT
    assert expected == pytest.approx(min(exact, MAX_WEIGHT), abs=0.15) and proven > min(exact, MAX_WEIGHT) - 0.2


def test_few_verdicts_prove_little() -> None:
    agreeing = ("1", "2")
    proven = [weights_of([agreeing] * number)[0] for number in (0, 2, 5, 10, 100)]
    assert proven == sorted(proven) and proven[0] < 0.1 and proven[-1] == MAX_WEIGHT
    assert weights_of([(None, None)] * 50) == weights_of([("tie", "tie")] * 50)
    assert weights_of([(None, None)] * 50)[0] == TIE_BREAK
    assert weights_of([("1", "1")] * 50) == (TIE_BREAK, TIE_BREAK)
