# SPDX-License-Identifier: Apache-2.0
"""Which votes vote_then_judge has judged in a run, and how much the verdicts count. It follows from samples and verdicts, without labels.

Verdicts cost tokens, for which the vote could have more samples. So they are asked for only where they promise more right answers than
samples of as many tokens do. What samples promise is seen from how much oftener a sample agrees with the vote of more others; what verdicts
promise depends on the skill of the judge (skill.py). This is not known at first. So the votes are judged in waves that grow, each by the
skill that the verdicts of all waves before show, and a judge without skill is asked about a few votes only.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from critic_r1_verl.lines import Match
from critic_r1_verl.select.calls import Call, Judge, Unanswered
from critic_r1_verl.select.candidates import Candidates
from critic_r1_verl.select.methods import Options, vote_then_judge
from critic_r1_verl.select.skill import weights_of
from critic_r1_verl.select.usage import added

Verdicts = Mapping[str, Mapping[Call, Match]]
"""By question_id, the match of each call."""

FIRST, GROWTH = 8, 4
"""The votes of the first wave, and how many times as large each further one is."""


@dataclass(frozen=True, slots=True)
class Budget:
    """options: of each vote that is judged, by question_id and number of samples. weight: of verdicts, as num_pairs pairs prove it."""

    options: Mapping[tuple[str, int], Options]
    weight: float = 0.0
    num_pairs: int = 0

    def of(self, question_id: str, num_samples: int) -> Options:
        """The options for a question; the price of those that are not judged is higher than any gain."""
        return self.options.get((question_id, num_samples), Options(price=math.inf))


def estimated_budget(numbers: Sequence[int], repeats: int, candidates: Mapping[str, Candidates], verdicts: Verdicts) -> Budget:
    """The budget for selecting among the first n samples of each question, for each n of these numbers, which share their evidence.

    The last wave in it may still lack verdicts; once they are known, the budget holds the next one.
    """
    votes = {(question_id, n): candidates[question_id].first(n) for n in numbers for question_id in sorted(candidates)}
    values = {n: value_of_sample([vote for (_, each), vote in votes.items() if each == n]) for n in numbers}
    options: dict[tuple[str, int], Options] = {}
    pairs: dict[tuple[str, Call], Sequence[Match]] = {}
    proven, expected = weights_of(())
    size, wave_is_complete = FIRST, True
    while wave_is_complete:
        cost = 2 * repeats * _cost_of_verdict([*candidates.values()], [match for pair in pairs.values() for match in pair])
        terms = {n: Options(repeats, reach=expected, price=cost * values[n]) for n in numbers}
        worth = [key for key, vote in votes.items() if key not in options and _calls(vote, {}, terms[key[1]]) is None]
        wave = {key: terms[n] for n in numbers for key in [each for each in worth if each[1] == n][:size]}
        wave_is_complete = bool(wave)
        for (question_id, n), of_vote in wave.items():
            matches = verdicts.get(question_id, {})
            if calls := _calls(votes[question_id, n], matches, of_vote):
                pairs[question_id, calls[0]] = [matches[call] for call in calls[:2]]
            else:
                wave_is_complete = False
        options |= wave
        proven, expected = weights_of((first.choice, second.choice) for first, second in pairs.values())
        size *= GROWTH
    return Budget({key: replace(of_vote, weight=proven) for key, of_vote in options.items()}, proven, len(pairs))


def _calls(vote: Candidates, matches: Mapping[Call, Match], options: Options) -> list[Call] | None:
    """The calls about a vote, those on its first pair first; None if verdicts are missing."""
    judge = Judge({call: match.choice for call, match in matches.items()})
    try:
        vote_then_judge(vote, judge, options)
    except Unanswered:
        return None
    return list(judge.asked)


def _cost_of_verdict(candidates: Collection[Candidates], matches: Sequence[Match]) -> float:
    """The mean tokens of a verdict, in those of a sample; 0 if the engine does not count them, so that they do not matter."""
    sample = _mean(each.sample_tokens for each in candidates)
    if matches:
        verdict = _mean(added([match.prompt_tokens, match.completion_tokens]) for match in matches)
    else:
        # The least that a verdict can cost, as long as none is known: it reads the question and two samples.
        verdict = _mean(added([each.prompt_tokens, each.sample_tokens, each.sample_tokens]) for each in candidates)
    return verdict / sample if sample and verdict else 0.0


def _mean(numbers: Iterable[float | None]) -> float | None:
    known = list(numbers)
    total = added(known)
    return total / len(known) if known and total is not None else None


def value_of_sample(votes: Collection[Candidates]) -> float:
    """How many right answers more, from 0 to 1, one more sample of each question brings, if an answer is right when samples agree with it.

    The agreement is taken to grow with the logarithm of the number of voters, because what the last ones alone brought is too unsteady.
    It is what two samples bring: a vote of an even number gains all of that by the next one alone.
    """
    gains = []
    for vote in votes:
        sizes = [len(group) for group in vote.groups]
        voters = sum(sizes) - 1
        if voters > 2:
            last_two = math.log(voters / (voters - 2)) / math.log(voters)
            of_one_voter = sum(size * (size - 1) for size in sizes) / (voters * (voters + 1))
            gains.append(last_two * (_agreement(sizes) - of_one_voter))
        elif voters > 0:
            # Of fewer than four samples the growth is not seen, but an agreement is 1 at most.
            gains.append(1 - _agreement(sizes))
    return max(0.0, sum(gains) / len(votes)) if votes else 0.0


def _agreement(sizes: Sequence[int]) -> float:
    """The chance that one of the samples in groups of these sizes agrees with the vote of all others.

    >>> _agreement([1, 3]), _agreement([2, 2])
    (0.75, 0.0)
    """
    chance = 0.0
    for place, size in enumerate(sizes):
        others = [*sizes[:place], size - 1, *sizes[place + 1 :]]
        if size - 1 == max(others):
            chance += size / sum(sizes) / others.count(size - 1)
    return chance
