# SPDX-License-Identifier: Apache-2.0
"""The real stack on the CPU, once: GRPO steps, a kill in mid-run, the resumed run, its checkpoint exported and judging."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from critic_r1_verl import judge, prompts, supervise
from critic_r1_verl.engines.base import Sampling
from critic_r1_verl.engines.vllm import VllmEngine
from critic_r1_verl.records import PairRecord, RecordFile

STEPS = 2


def command(world: Path) -> list[str]:
    data = world / "data"
    return [
        *(sys.executable, "-m", "critic_r1_verl.cli", "train", "--recipe", "critic_r1", "--log", str(world / "training.log")),
        *("+recipe/base=tiny", "+recipe/hardware=cpu", f"actor_rollout_ref.model.path={world / 'base'}"),
        *(f"data.train_files={data / 'train.parquet'}", f"data.val_files={data / 'val.parquet'}", "data.train_batch_size=4"),
        *(
            "actor_rollout_ref.actor.ppo_mini_batch_size=4",
            "actor_rollout_ref.rollout.n=2",
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
            *(f"actor_rollout_ref.{part}.log_prob_micro_batch_size_per_gpu=4" for part in ("rollout", "ref")),
        ),
        *("data.max_response_length=16", f"trainer.total_training_steps={STEPS}", "trainer.save_freq=1", "trainer.test_freq=-1"),
        *("trainer.val_before_train=false", f"trainer.default_local_dir={world / 'checkpoints'}/${{trainer.experiment_name}}"),
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1"}


def steps(world: Path) -> list[dict]:
    file = world / "training.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def drivers(of: int) -> list[int]:
    """The trainer's own process among the children of our command."""
    children = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(of)], capture_output=True, text=True, check=False).stdout
    return [int(line.split()[0]) for line in children.splitlines() if "verl.trainer.main_ppo" in line]


def wait_until(condition, seconds: float, process: subprocess.Popen, world: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the training ended or stalled early:\n{(world / 'training.log').read_text()[-3000:]}")
        time.sleep(0.5)


def test_a_killed_training_resumes_and_its_checkpoint_judges(world: Path) -> None:
    shared_memory = set(os.listdir("/dev/shm"))
    process = subprocess.Popen(command(world), env=environment(), cwd=world)
    # verl logs a step after it has saved its checkpoint.
    wait_until(lambda: steps(world), 900, process, world)
    (driver,) = drivers(process.pid)
    os.kill(driver, signal.SIGKILL)
    assert process.wait(timeout=120) != 0
    assert supervise.leftovers() == []
    assert set(os.listdir("/dev/shm")) <= shared_memory

    resumed = subprocess.run(command(world), env=environment(), cwd=world, timeout=900, check=False)
    assert resumed.returncode == 0, (world / "training.log").read_text()[-3000:]
    assert [step["step"] for step in steps(world)] == [1, 2]
    assert "Resuming from" in (world / "training.log").read_text()
    last = steps(world)[-1]["data"]
    assert {"reward/acc/mean", "reward/format/mean", "reward/unparsed/mean", "critic/score/mean"} <= last.keys()
    assert last["critic/score/mean"] == pytest.approx(0.9 * last["reward/acc/mean"] + 0.1 * last["reward/format/mean"], abs=1e-5)
    assert set(os.listdir("/dev/shm")) <= shared_memory

    (experiment,) = (world / "checkpoints").iterdir()
    export = [sys.executable, "-m", "critic_r1_verl.cli", "export", str(experiment), "--out", str(world / "trained")]
    assert subprocess.run(export, env=environment(), check=False).returncode == 0
    pairs = list(RecordFile(Path(world / "data" / "test_pairs.jsonl"), PairRecord))[:4]
    os.environ.update(VERL_PLATFORM="cpu", HF_HUB_OFFLINE="1")
    generator = VllmEngine(world / "trained", max_model_len=512)
    protocol = judge.Protocol(prompts.load("critic_short"), Sampling(16))
    first, second = (judge.request(pair, "12", protocol, world / "data") for pair in pairs[:2])
    with pytest.raises(ValueError, match="does not open"):
        list(generator.generate([first, replace(second, images=(world / "none.png",))]))
    # What that error left in the engine is gone.
    lines = judge.judge(pairs, generator, protocol, world / "judgements.jsonl", root=world / "data")
    assert {(line["pair_id"], line["order"]) for line in lines} == {(pair.pair_id, order) for pair in pairs for order in ("12", "21")}
    assert all(line["completion_tokens"] > 0 for line in lines)
