# SPDX-License-Identifier: Apache-2.0
"""The 7B job on a CPU: its recipe and hardware file, two FSDP ranks, tensor parallel 2, no padding; killed, resumed, exported, judging."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rehearsal
import small_bases
from PIL import Image

from critic_r1_verl import prompts, rows, supervise

TESTS = Path(__file__).parents[1]
COLOURS = ("red", "green", "blue", "white", "black", "yellow")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/, and data/ built with the recipe's template and pixel limits and measured with that base's tokenizer."""
    folder = tmp_path_factory.mktemp("rehearsal")
    pairs = []
    for number in range(24):
        right, wrong = COLOURS[number % 6], COLOURS[(number + 1 + number // 6) % 6]
        row = {"image": f"{number}.png", "question": "Which colour?", "chosen": f"It is {right}.", "rejected": f"It is {wrong}."}
        Image.new("RGB", (520 + 40 * (number % 3), 520), right).save(folder / row["image"])
        pairs.append(row)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    texts = [prompts.load("critic").text, *(row[key] for row in pairs for key in ("question", "chosen", "rejected"))]
    small_bases.build("qwen2_5_vl", texts, folder / "base", likely=("\\boxed{1}", "\\boxed{2}"))
    critic_r1(folder, "data", "build", "--corpus", "pairs:pairs.jsonl", "--base", "base", "--val", "4", "--test", "4", "--out", "data")
    built = rows.read_rows(folder / "data" / "train.parquet")
    for row in built[::4]:
        row["images"] = []
        row["prompt"][0]["content"] = row["prompt"][0]["content"].replace("<image>", "")
    rows.write_parquet(folder / "data" / "mixed.parquet", built)
    return folder


def environment(folder: Path) -> dict[str, str]:
    stand_in = os.pathsep.join(filter(None, [str(TESTS / "stand_in"), os.environ.get("PYTHONPATH", "")]))
    return {
        **os.environ,
        "VERL_PLATFORM": "cpu",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": stand_in,
        "FLASH_ATTN_CALLS": str(folder / "flash_attn_calls"),
        # Two ranks and two workers of vLLM share two cores, and threads that wait for each other take them.
        "OMP_NUM_THREADS": "1",
    }


def critic_r1(folder: Path, *words: str) -> str:
    """What a command prints, run in the folder."""
    done = subprocess.run(
        [sys.executable, "-m", "critic_r1_verl.cli", *words],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def train(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "critic_r1_verl.cli", "train", "--log", "training.log", *rehearsal.overrides(str(folder))]
    return subprocess.Popen(command, cwd=folder, env=environment(folder))


def steps(folder: Path) -> list[dict]:
    file = folder / "training.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def log(folder: Path) -> str:
    file = folder / "training.log"
    return file.read_text(errors="replace") if file.is_file() else ""


def test_the_7b_job_is_killed_and_resumed_and_its_export_judges(folder: Path) -> None:
    first = train(folder)
    deadline = time.monotonic() + 400
    while not steps(folder):
        assert first.poll() is None and time.monotonic() < deadline, log(folder)[-4000:]
        time.sleep(0.5)
    first.send_signal(signal.SIGKILL)
    first.wait()
    while leftovers := [path for path in supervise.SHM.glob(f"critic_r1_run_{os.geteuid()}_*.json")]:
        assert time.monotonic() < deadline, leftovers
        time.sleep(0.2)
    assert train(folder).wait(400) == 0, log(folder)[-4000:]
    assert [line["step"] for line in steps(folder)] == [1, 2]
    assert "Resuming from" in log(folder)
    for line in steps(folder):
        # vLLM and the FSDP actor give each sampled token nearly the same probability.
        assert line["data"]["training/rollout_actor_probs_pearson_corr"] > 0.98
    # The random base is right now and then, so that a group has something to compare.
    assert max(line["data"]["actor/grad_norm"] for line in steps(folder)) > 0
    # The text model attends causally, the vision tower does not, both in half precision.
    assert set((folder / "flash_attn_calls").read_text().splitlines()) == {"causal bfloat16", "full bfloat16"}

    (experiment,) = (folder / "checkpoints" / "critic_r1").iterdir()
    critic_r1(folder, "export", str(experiment), "--out", "trained")
    critic_r1(folder, "eval", "--model", "trained", "--data", "data", "--max-tokens", "16", "--out", "eval")
    metrics = json.loads((folder / "eval/test/metrics.json").read_text())
    assert metrics["counts"]["pairs"] == 4
