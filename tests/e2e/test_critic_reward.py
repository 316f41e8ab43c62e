# SPDX-License-Identifier: Apache-2.0
"""A critic rewards GRPO steps of a small random base on the real stack: one behind a server, until it is killed, and the base itself."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import small_bases
import small_world
from stand_in_chat import StandIn, said, serving

from critic_r1_verl import rows, supervise

BATCH, NUM = 8, 4
SMALL = (
    *("+recipe/base=tiny", "+recipe/hardware=cpu", f"data.train_batch_size={BATCH}", f"actor_rollout_ref.rollout.n={NUM}"),
    *("data.max_prompt_length=384", "data.max_response_length=4", f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH}"),
    *(f"actor_rollout_ref.{part}_micro_batch_size_per_gpu=4" for part in ("actor.ppo", "rollout.log_prob", "ref.log_prob")),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ with pairs and questions, and base/, a random model that writes answers in the required form now and then."""
    folder = small_world.make(tmp_path_factory.mktemp("reward"), train_questions=64, val_pairs=4)
    texts = [row["prompt"][0]["content"] for row in rows.read_rows(folder / "data" / "train.parquet")]
    small_bases.build(
        "qwen2_5_vl", texts, folder / "random", likely=("<think>a</think>\\boxed{1}", "<think>a</think>\\boxed{2}", "\\boxed{1}")
    )
    return folder


def environment() -> dict[str, str]:
    return {**os.environ, "VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}


def steps(out: Path) -> dict[int, dict[str, Any]]:
    """The metrics of each step, by its number; 0 is the validation before the training."""
    file = out / "training.jsonl"
    return {line["step"]: line["data"] for line in map(json.loads, file.read_text().splitlines())} if file.is_file() else {}


def prefers_the_longer(body: dict) -> dict:
    """A critic that can be cheated."""
    text = "".join(part.get("text", "") for part in body["messages"][0]["content"])
    _, first, second, _ = re.split("Response [12]: |Which response", text)
    longer = len(first) - len(second)
    return said("<think>.</think>\\boxed{" + ("tie" if longer == 0 else "1" if longer > 0 else "2") + "}")


@pytest.mark.nightly
def test_the_critic_is_paid_for_and_its_death_ends_the_training(folder: Path, tmp_path: Path) -> None:
    stand_in = StandIn(prefers_the_longer)
    data = folder / "data"
    with serving(stand_in) as (url,):
        command = [
            *(sys.executable, "-m", "critic_r1_verl.cli", "train", "--recipe", "critic_reward", "--log", str(tmp_path / "training.log")),
            *(*SMALL, f"actor_rollout_ref.model.path={folder / 'random'}", f"trainer.default_local_dir={tmp_path / 'checkpoints'}"),
            *(f"data.{name}_files={data / name}.parquet" for name in ("train", "val")),
            *("critic_r1.rows.number=64", "trainer.total_epochs=9", "trainer.save_freq=-1", "trainer.test_freq=-1"),
            *(f"critic_r1.judge.base_url={url}", "critic_r1.judge.max_retries=1"),
        ]
        process = subprocess.Popen(command, env=environment(), cwd=tmp_path)
        deadline = time.monotonic() + 900
        while process.poll() is None and max(steps(tmp_path), default=0) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
    assert process.wait(timeout=300) == 1
    log = (tmp_path / "training.log").read_text()
    found = steps(tmp_path)
    assert max(found) >= 2, log[-3000:]
    assert "/v1, question " in log and "in 2 attempt(s); start or repair the server" in log
    assert supervise.leftovers() == []

    assert "val-core/digits/policy/acc/mean@1" in found[0]
    for number in range(1, max(found) + 1):
        step = found[number]
        paid = 0.9 * step["judge/win"] + 0.1 * step["reward/format/mean"]
        assert step["critic/score/mean"] == pytest.approx(paid, abs=1e-5)
        assert step["judge/unparsed"] == 0 and step["judge/consistent"] == 1
        assert step["judge/decided"] > 0 and step["judge/longer"] == 1
    # Each response meets two others at most, in two orders.
    assert 0 < len(stand_in.asked) <= BATCH * NUM * 4 * (max(found) + 1)
    assert all(body["model"] == "tiny" and body["temperature"] == 0 for body in stand_in.asked)
    assert {part["type"] for body in stand_in.asked for part in body["messages"][0]["content"]} == {"text", "image_url"}


@pytest.mark.nightly
def test_a_model_is_its_own_critic_which_verl_serves(folder: Path, tmp_path: Path) -> None:
    """A random model judges without a verdict, which is allowed here; what a guard would say of it is not asked."""
    command = [
        *(sys.executable, "-m", "critic_r1_verl.cli", "study", "self-improve", "self", "--rounds", "1", "--no-stop", "--limit", "4"),
        *("--samples", "2", "--data", str(folder / "data"), "--model", str(folder / "random"), "--out", "out", *SMALL),
        *(f"critic_r1.rows.number={2 * BATCH}", "trainer.save_freq=2", "trainer.test_freq=-1", "trainer.val_before_train=false"),
        "critic_r1.judge.max_unparsed=1",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=1500, check=False)
    round_1 = tmp_path / "out/self-1/seed-1"
    log = round_1 / "training.log"
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + (log.read_text()[-3000:] if log.is_file() else "")
    found = steps(round_1)
    assert list(found) == [1, 2]
    for step in found.values():
        assert step["critic/score/mean"] == pytest.approx(0.9 * step["judge/win"] + 0.1 * step["reward/format/mean"], abs=1e-5)
        # There were comparisons, and the critic answered.
        assert "judge/unparsed" in step
    assert (round_1 / "model/config.json").is_file() and supervise.leftovers() == []
    report = [sys.executable, "-m", "critic_r1_verl.cli", "study", "report", "out", "--json"]
    table = json.loads(subprocess.run(report, cwd=tmp_path, capture_output=True, check=True).stdout)
    assert [(each["name"], each["seeds"]) for each in table["studies"]] == [("base", [0]), ("self-1", [1])]
