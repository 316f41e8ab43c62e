# SPDX-License-Identifier: Apache-2.0
"""When a model that trains on its own verdicts has to stop: signs that its reward no longer means what it should.

A reward that a model gives to itself rises whatever becomes of it, so none of these looks at the reward. Two look at the truth, which no
training sees; the others at the trainings, round by round.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from critic_r1_verl.scoring.run import Run, measures_of

Steps = Sequence[Mapping[str, float]]
"""The metrics of each step of a training, without its validations."""

TRUTH = {"greedy": ("policy", "its answers"), "accuracy": ("critic", "its verdicts")}
"""Measures of the held-out items (scoring/measures.py), each with its part and what it is about."""

_SHARE = 4
"""A training begins with the first and ends with the last quarter of its steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """Bounds for the mean of a metric at the end of a training; relative ones are multiples of its mean at the start of the first one."""

    metric: str
    low: float = float("-inf")
    high: float = float("inf")
    relative: bool = False
    meaning: str


LIMITS = (
    Limit(metric="response_length/mean", low=0.5, high=2.0, relative=True, meaning="tokens of a response"),
    Limit(metric="actor/entropy", low=0.1, relative=True, meaning="the entropy of the policy, whose rollouts become all the same"),
    Limit(metric="judge/distinct", low=0.25, relative=True, meaning="the share of different responses, with no others left to compare"),
    Limit(metric="judge/readable", low=0.5, relative=True, meaning="the share of responses in which an answer can be read"),
    Limit(metric="judge/first", low=0.1, high=0.9, meaning="the share of verdicts for the response shown first"),
    Limit(metric="judge/tie", high=0.9, meaning="the share of verdicts for neither"),
    Limit(metric="judge/decided", low=0.05, meaning="the share of comparisons with a winner"),
    Limit(metric="judge/longer", high=0.9, meaning="the share of comparisons that the longer response wins"),
)


def of_trainings(first: Steps, last: Steps) -> list[str]:
    """What a training shows that exceeds LIMITS; first is that of the first round. Metrics that a training does not have are left out."""
    alarms = []
    for limit in LIMITS:
        start, end = (_mean(limit.metric, steps) for steps in (first[: _quarter(first)], last[-_quarter(last) :]))
        if start is None or end is None:
            continue
        unit = start if limit.relative else 1.0
        if not limit.low * unit <= end <= limit.high * unit:
            was = f", {start:.3g} at first" if limit.relative else ""
            alarms.append(f"{limit.metric} is {end:.3g}{was}: {limit.meaning}")
    return alarms


def of_measurements(base: Run, now: Run) -> list[str]:
    """In which of TRUTH a model is worse than the base on the same items, by more than the 95 % interval of the difference."""
    before, after = measures_of(base), measures_of(now)
    alarms = []
    for key, (part, what) in TRUTH.items():
        if not (part in before and (value := before[part][key]()) and (later := after[part][key]())):
            continue
        difference = later.difference(value)
        if difference.ci95[1] < 0:
            points, low, high = (f"{100 * number:+.1f}" for number in (difference.value, *difference.ci95))
            alarms.append(f"{what} are right less often than those of the base: {points} points [{low}, {high}]")
    return alarms


def _quarter(steps: Steps) -> int:
    return max(1, len(steps) // _SHARE)


def _mean(metric: str, steps: Steps) -> float | None:
    values = [step[metric] for step in steps if metric in step]
    return fmean(values) if values else None
