# SPDX-License-Identifier: Apache-2.0
"""Somebody's own pairs and a base by its name on the real stack: build, GRPO steps, export, eval, select, report.

test_rehearsal.py kills a training and resumes it.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from stand_in_hub import Repository, StandInHub, files_of

from critic_r1_verl import judge, prompts, supervise
from critic_r1_verl.critics.pairwise import PairwiseCritic
from critic_r1_verl.engines.base import Sampling
from critic_r1_verl.engines.vllm import VllmEngine
from critic_r1_verl.records import PairRecord, RecordFile

MODEL = "Qwen/Qwen2.5-VL-7B-Instruct"
STEPS = 2
LOOPBACK = {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
COLOURS = ("red", "green", "blue", "white", "black", "yellow")


@pytest.fixture(scope="module")
def mine(world: Path) -> Path:
    """The folder of a stranger: pairs of their own and questions in the form of a public corpus, built into data/."""
    folder = world / "mine"
    folder.mkdir()
    rows, questions = [], []
    for number in range(36):
        right, wrong = COLOURS[number % 6], COLOURS[(number + 1 + number // 6) % 6]
        Image.new("RGB", (56 + number, 56), right).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": "Which colour?", "chosen": f"It is {right}.", "rejected": f"It is {wrong}."})
        Image.new("RGB", (57 + number, 57), right).save(folder / "question.png")
        picture = {"bytes": (folder / "question.png").read_bytes(), "path": None}
        questions.append({"images": [picture], "problem": f"<image>How wide is it, less 57 and plus {number}?", "answer": str(2 * number)})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(questions), folder / "questions.parquet")
    corpora = ("--corpus", "pairs:pairs.jsonl", "--corpus", "geometry3k:questions.parquet")
    small = (
        "--template",
        "critic_short",
        "--question-template",
        "policy_short",
        "--base",
        "tiny",
        "--no-lengths",
        "--val",
        "4",
        "--test",
        "12",
    )
    critic_r1(folder, "data", "build", *corpora, *small, "--out", "data")
    critic_r1(folder, "data", "validate", "data")
    return folder


@pytest.fixture(scope="module")
def hub(world: Path) -> Iterator[StandInHub]:
    """Serves the small base under a real name, with weights of another format beside its own, as in many older repositories."""
    with StandInHub({MODEL: Repository(files_of(world / "base") | {"pytorch_model.bin": b"pickled"})}) as hub:
        yield hub


def critic_r1(folder: Path, *words: str, **variables: str) -> str:
    """What a command prints, run in a folder."""
    command = [sys.executable, "-m", "critic_r1_verl.cli", *words]
    done = subprocess.run(command, cwd=folder, env=environment() | variables, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def command(mine: Path) -> list[str]:
    data = mine / "data"
    return [
        *(sys.executable, "-m", "critic_r1_verl.cli", "train", "--recipe", "critic_r1", "--log", str(mine / "training.log")),
        *("+recipe/base=tiny", "+recipe/hardware=cpu", f"actor_rollout_ref.model.path={MODEL}"),
        *(f"data.train_files={data / 'train.parquet'}", f"data.val_files={data / 'val.parquet'}", "data.train_batch_size=4"),
        *(
            "actor_rollout_ref.actor.ppo_mini_batch_size=4",
            "actor_rollout_ref.rollout.n=2",
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4",
            *(f"actor_rollout_ref.{part}.log_prob_micro_batch_size_per_gpu=4" for part in ("rollout", "ref")),
        ),
        *("data.max_response_length=16", f"trainer.total_training_steps={STEPS}", "trainer.save_freq=1", "trainer.test_freq=-1"),
        *("trainer.val_before_train=false", f"trainer.default_local_dir={mine / 'checkpoints'}/${{trainer.experiment_name}}"),
    ]


def environment() -> dict[str, str]:
    return {**os.environ, "VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1"}


def steps(mine: Path) -> list[dict]:
    file = mine / "training.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def wait_until(condition, seconds: float, process: subprocess.Popen, mine: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the training ended or stalled early:\n{(mine / 'training.log').read_text()[-3000:]}")
        time.sleep(0.5)


def listening(of: int) -> set[tuple[str, str]]:
    """The processes below this one that listen, and on which address."""
    found = set()
    for process in psutil.Process(of).children(recursive=True):
        with suppress(psutil.Error):
            found |= {(process.name(), place.laddr.ip) for place in process.net_connections("tcp") if place.status == psutil.CONN_LISTEN}
    return found


def test_a_base_by_its_name_is_trained_and_its_checkpoint_is_measured(mine: Path, hub: StandInHub) -> None:
    here = {"HF_HOME": str(mine / "hub"), "HF_ENDPOINT": hub.endpoint}
    fetch = f"from critic_r1_verl import hub; hub.fetch({MODEL!r}, 'base')"
    subprocess.run([sys.executable, "-c", fetch], env=environment() | here | {"HF_HUB_OFFLINE": "0"}, check=True)
    num_requests = len(hub.requests)
    assert any(request.endswith("model.safetensors") for request in hub.requests)

    # From here on offline. The pickled weights were left on the hub, and nobody misses them.
    shared_memory, files = set(os.listdir("/dev/shm")), set(os.listdir(mine))
    process = subprocess.Popen(command(mine), env=environment() | here, cwd=mine)
    wait_until(lambda: steps(mine), 900, process, mine)
    listeners = listening(process.pid)
    assert listeners and {address for _, address in listeners} <= LOOPBACK, listeners
    assert process.wait(timeout=900) == 0, (mine / "training.log").read_text()[-3000:]
    assert [step["step"] for step in steps(mine)] == [1, 2]
    assert supervise.leftovers() == []
    last = steps(mine)[-1]["data"]
    assert {"reward/acc/mean", "reward/format/mean", "reward/unparsed/mean", "critic/score/mean"} <= last.keys()
    assert last["critic/score/mean"] == pytest.approx(0.9 * last["reward/acc/mean"] + 0.1 * last["reward/format/mean"], abs=1e-5)
    assert set(os.listdir("/dev/shm")) <= shared_memory

    assert set(os.listdir(mine)) - files == {"checkpoints", "training.log", "training.jsonl"}

    (experiment,) = (mine / "checkpoints").iterdir()
    assert "-Qwen2.5-VL-7B-Instruct-" in experiment.name
    critic_r1(mine, "export", str(experiment), "--out", "trained", **here)
    assert f"base_model: {MODEL}" in (mine / "trained" / "README.md").read_text()
    assert str(mine) not in "".join(file.read_text() for file in (mine / "trained").glob("*.json"))
    measure = ("--model", "trained", "--data", "data", "--max-tokens", "16", "--out")
    critic_r1(mine, "eval", *measure, "eval", **here)
    critic_r1(mine, "select", *measure, "select", "--samples", "2", **here)
    assert len(hub.requests) == num_requests
    printed = critic_r1(mine, "report", "eval", "--against", "select", "--training", "training.jsonl")
    assert "Critic accuracy" in printed and "report: eval/report.html" in printed
    evaluated, selected = (json.loads((mine / out / "test/metrics.json").read_text()) for out in ("eval", "select"))
    counts = evaluated["counts"]
    assert counts["pairs"] > 0 < counts["questions"] and counts["pairs"] + counts["questions"] == 12
    assert selected["policy"]["knockout"]["n"] == counts["questions"]


def test_an_engine_is_empty_after_an_error(mine: Path) -> None:
    pairs = list(RecordFile(mine / "data" / "records.jsonl", PairRecord))[:4]
    os.environ.update(VERL_PLATFORM="cpu", HF_HUB_OFFLINE="1")
    engine = VllmEngine(mine.parent / "base", max_model_len=512)
    critic = PairwiseCritic(prompts.load("critic_short"), Sampling(16))
    first, second = (critic.request(pair, "12", mine / "data") for pair in pairs[:2])
    with pytest.raises(ValueError, match="does not open"):
        list(engine.generate([first, replace(second, images=(mine / "none.png",))]))
    # What that error left in the engine is gone.
    lines = judge.judge(pairs, engine, critic, mine / "judgements.jsonl", root=mine / "data")
    assert {(line.pair_id, line.order) for line in lines} == {(pair.pair_id, order) for pair in pairs for order in ("12", "21")}
    assert all(line.completion_tokens for line in lines)
