# SPDX-License-Identifier: Apache-2.0
"""Self-improvement: a model is its own critic for several rounds. Two controls have other rewards, and are otherwise the same.

In each round the model answers training questions, the model as it was before the round judges these answers in pairs, GRPO pays the
winners (recipe critic_reward), and the result is measured on held-out items. A round is a study (run.py) named REWARD-ROUND, whose base is
the model of the round before; so a killed run goes on, and `critic-r1 study report` tabulates rounds, seeds and controls.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from critic_r1_verl import foreign
from critic_r1_verl.study import guards
from critic_r1_verl.study.run import BASE, Settings, StudyRun, common_overrides, run_one
from critic_r1_verl.training.compose import compose, quoted

Reward = Literal["self", "coin", "truth"]
"""What pays: the model's own verdicts, those of a coin (a control), or the answers of the data (an upper bound)."""

RECIPE = "critic_reward"
REWARDS: tuple[Reward, ...] = get_args(Reward)


def run(
    rewards: Sequence[Reward], seeds: Sequence[int], num_rounds: int, settings: Settings, out: Path, *, no_stop: bool = False
) -> list[str]:
    """Do the rounds of each reward with each seed, and return which of them failed or were stopped; stderr says why.

    no_stop: go on after an alarm of the guards. ValueError for an override of what the rounds set themselves.
    """
    plans = [(reward, seed) for seed in seeds for reward in rewards]
    base = StudyRun(BASE, 0, out / BASE / "seed-0", RECIPE)
    examples = [each for reward in rewards for each in rounds(reward, seeds[0], 1, Path(BASE), out)]
    overrides = common_overrides([base, *examples], settings)
    settings = replace(settings, model=settings.model or str(compose(RECIPE, overrides).actor_rollout_ref.model.path))
    if not run_one(base, settings, overrides):
        return [base.name]
    failed = []
    for reward, seed in plans:
        first: guards.Steps = []
        for each in rounds(reward, seed, num_rounds, Path(settings.model), out):
            foreign.say(f"{each.name}: {each.folder}")
            if not run_one(each, settings, overrides):
                failed.append(each.name)
                break
            steps = _steps(each.folder)
            first = first or steps
            alarms = guards.of_trainings(first, steps) + guards.of_measurements(base.measured, each.measured)
            for alarm in alarms:
                foreign.say(f"critic-r1: {each.name}: {alarm}", stderr=True)
            if alarms and not no_stop:
                foreign.say(
                    f"critic-r1: {each.name}: the rounds of {reward} with this seed are stopped; --no-stop goes on all the same",
                    stderr=True,
                )
                failed.append(each.name)
                break
    return failed


def rounds(reward: Reward, seed: int, num_rounds: int, base: Path, out: Path) -> Iterator[StudyRun]:
    """The rounds of a reward. Each draws other rows, the same ones for each reward, and starts with the model of the one before."""
    start = base
    for number in range(1, num_rounds + 1):
        judge = {
            "self": (
                "critic_r1.judge.base_url=''",
                "reward.reward_model.enable=true",
                f"reward.reward_model.model_path={quoted(str(start))}",
            ),
            "coin": ("critic_r1.judge.verdicts=coin",),
            "truth": ("critic_r1.judge.verdicts=truth", "critic_r1.rows.stages=[{question: 1.0}]"),
        }[reward]
        name = f"{reward}-{number}"
        rows = f"critic_r1.rows.seed={1000 * seed + number}"
        each = StudyRun(name, seed, out / name / f"seed-{seed}", RECIPE, (*judge, rows), start)
        yield each
        start = each.folder / "model"


def _steps(folder: Path) -> guards.Steps:
    """The steps of a training, without its validations."""
    lines = (folder / "training.jsonl").read_text(encoding="utf-8").splitlines()
    return [line["data"] for line in map(json.loads, lines) if "actor/lr" in line["data"]]
