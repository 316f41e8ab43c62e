# SPDX-License-Identifier: Apache-2.0
"""Studies on the real stack: the command killed in the middle of a training and started again at once, then the table."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

STEPS = 3
SMALL = (
    *("data.train_batch_size=4", "data.max_response_length=16", "actor_rollout_ref.actor.ppo_mini_batch_size=4"),
    *("actor_rollout_ref.rollout.n=2", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4"),
    *(f"actor_rollout_ref.{part}.log_prob_micro_batch_size_per_gpu=4" for part in ("rollout", "ref")),
    *(f"trainer.total_training_steps={STEPS}", "trainer.save_freq=1", "trainer.test_freq=-1", "trainer.val_before_train=false"),
)


def study(world: Path, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "critic_r1_verl.cli", "study", *words]
    environment = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"} | {"HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, cwd=world, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.nightly
def test_a_killed_study_goes_on_and_is_tabulated(world: Path) -> None:
    words = ("run", "base,critic_r1", "--seeds", "2", "--samples", "2", "--data", "data", "--model", "base", "--out", "out", *SMALL)
    folder = world / "out/critic_r1/seed-2"
    steps = folder / "training.jsonl"
    killed = study(world, *words)
    deadline = time.monotonic() + 600
    while not (steps.is_file() and steps.read_text().count("\n")):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    killed.kill()
    killed.communicate()

    resumed = study(world, *words)
    printed, _ = resumed.communicate(timeout=900)
    assert resumed.returncode == 0, printed[-3000:]
    assert "finished before: critic accuracy" in printed
    assert [json.loads(line)["step"] for line in steps.read_text().splitlines()] == [1, 2, 3]
    assert list((folder / "checkpoints").glob("*_step_*")) == []
    assert "Resuming from" in (folder / "training.log").read_text(errors="replace")
    report = study(world, "report", "out", "--json")
    table = json.loads(report.communicate(timeout=60)[0])
    assert [(each["name"], each["seeds"]) for each in table["studies"]] == [("base", [0]), ("critic_r1", [2])]
    assert table["studies"][1]["measures"]["sample"]["n"] == 2 * table["studies"][1]["measures"]["greedy"]["n"] > 0
