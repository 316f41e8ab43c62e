# SPDX-License-Identifier: Apache-2.0
"""A critic behind a server rewards GRPO steps of a small random base on the real stack, until the server is killed."""

import json
import os
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ with pairs and questions, and base/, a random model that writes answers in the required form now and then."""
    folder = small_world.make(tmp_path_factory.mktemp("reward"), train_questions=64, val_pairs=4)
    texts = [row["prompt"][0]["content"] for row in rows.read_rows(folder / "data" / "train.parquet")]
    small_bases.build(
        "qwen2_5_vl", texts, folder / "random", likely=("<think>a</think>\\boxed{1}", "<think>a</think>\\boxed{2}", "\\boxed{1}")
    )
    return folder


def command(folder: Path, out: Path, *overrides: str) -> list[str]:
    data = folder / "data"
    return [
        *(sys.executable, "-m", "critic_r1_verl.cli", "train", "--recipe", "critic_reward", "--log", str(out / "training.log")),
        *("+recipe/base=tiny", "+recipe/hardware=cpu", f"actor_rollout_ref.model.path={folder / 'random'}"),
        *(f"data.train_files={data / 'train.parquet'}", f"data.val_files={data / 'val.parquet'}", f"data.train_batch_size={BATCH}"),
        *("data.max_prompt_length=384", "data.max_response_length=4", f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH}"),
        *(f"actor_rollout_ref.rollout.n={NUM}", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4"),
        *(f"actor_rollout_ref.{part}.log_prob_micro_batch_size_per_gpu=4" for part in ("rollout", "ref")),
        *("critic_r1.rows.number=64", "trainer.save_freq=-1", f"trainer.default_local_dir={out / 'checkpoints'}", *overrides),
    ]


def steps(out: Path) -> dict[int, dict[str, Any]]:
    """The metrics of each step, by its number; 0 is the validation before the training."""
    file = out / "training.jsonl"
    return {line["step"]: line["data"] for line in map(json.loads, file.read_text().splitlines())} if file.is_file() else {}


def prefers_two(body: dict) -> dict:
    """A critic that prefers the response with 2 in the box, whatever the truth is."""
    text = "".join(part.get("text", "") for part in body["messages"][0]["content"])
    first, second = ("boxed{2}" in text.split(f"Response {number}: ")[1].splitlines()[0] for number in (1, 2))
    return said("<think>.</think>\\boxed{" + ("tie" if first == second else "1" if first else "2") + "}")


@pytest.mark.nightly
def test_the_critic_is_paid_for_and_its_death_ends_the_training(folder: Path, tmp_path: Path) -> None:
    stand_in = StandIn(prefers_two)
    environment = {**os.environ, "VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}
    with serving(stand_in) as (url,):
        words = (f"critic_r1.judge.base_url={url}", "critic_r1.judge.max_retries=1", "trainer.total_epochs=9", "trainer.test_freq=-1")
        process = subprocess.Popen(command(folder, tmp_path, *words), env=environment, cwd=tmp_path)
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
    assert any(step["judge/decided"] > 0 for number, step in found.items() if number)
    # The three texts that the base writes make at most three pairs of each question, in two orders.
    assert 0 < len(stand_in.asked) <= BATCH * NUM * 4 * (max(found) + 1)
    assert all(body["model"] == "tiny" and body["temperature"] == 0 for body in stand_in.asked)
    assert {part["type"] for body in stand_in.asked for part in body["messages"][0]["content"]} == {"text", "image_url"}
