# SPDX-License-Identifier: Apache-2.0
"""Two steps of GRPO for each family of bases, with small random weights in its own class, processor and template; export, judgement."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import small_bases

from critic_r1_verl import judge, mixture, prompts, rows
from critic_r1_verl.critics.pairwise import PairwiseCritic
from critic_r1_verl.engines.base import Sampling
from critic_r1_verl.engines.vllm import VllmEngine
from critic_r1_verl.records import PairRecord, RecordFile

STEPS = 2
# Two FSDP ranks, one rollout engine each.
TWO_RANKS = ("trainer.n_gpus_per_node=2", "ray_kwargs.ray_init.num_gpus=2")
# A rate at which two steps change more of the merged weights than half precision rounds away.
LORA = ("+recipe/method=lora", "actor_rollout_ref.actor.optim.lr=1e-2", f"trainer.test_freq={STEPS}")
CASES = {
    # Qwen2.5-VL's class, as the 7B bases'. A micro-batch is one row, and one row of each batch has no image: its rank has none while the
    # other rank sees one.
    "mimo_vl": (*TWO_RANKS, "trainer.val_before_train=true", "data.val_batch_size=2", "trainer.test_freq=-1"),
    "qwen3_vl": LORA,
}


@pytest.fixture(scope="module")
def data(world: Path) -> Path:
    """Training rows of which every fourth, in the sequence of the training, has no image, in the folder of the small world's."""
    pairs = [row for row in rows.read_rows(world / "data" / "train.parquet") if row["ability"] == "critic"][:8]
    table = [pairs[place.row] for place in mixture.choose(list(map(mixture.fact, pairs)), mixture.Mixture())]
    for row in table[::4]:
        row["images"] = []
        row["prompt"][0]["content"] = row["prompt"][0]["content"].replace("<image>", "")
    rows.write_parquet(world / "data" / "mixed.parquet", table)
    return world / "data"


def train(folder: Path, base: Path, data: Path, *overrides: str) -> list[dict[str, Any]]:
    """The metrics of each step of a training in folder."""
    command = [
        *(sys.executable, "-m", "critic_r1_verl.cli", "train", "--recipe", "critic_r1", "--log", str(folder / "training.log")),
        *("+recipe/base=tiny", "+recipe/hardware=cpu", f"actor_rollout_ref.model.path={base}"),
        *(f"data.train_files={data / 'mixed.parquet'}", f"data.val_files={data / 'val.parquet'}", "data.train_batch_size=4"),
        *("data.max_prompt_length=384", "data.max_response_length=16", "data.shuffle=false"),
        *("actor_rollout_ref.actor.ppo_mini_batch_size=4", "actor_rollout_ref.rollout.n=2"),
        *(
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
            *(f"actor_rollout_ref.{part}.log_prob_micro_batch_size_per_gpu=1" for part in ("rollout", "ref")),
        ),
        # A random model earns nothing, and equal rewards have no gradient.
        "actor_rollout_ref.actor.entropy_coeff=0.01",
        *(f"trainer.total_training_steps={STEPS}", f"trainer.save_freq={STEPS}"),
        f"trainer.default_local_dir={folder / 'checkpoints'}",
        *overrides,
    ]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=900, check=False)
    log = folder / "training.log"
    assert done.returncode == 0, done.stderr[-3000:] + (log.read_text()[-3000:] if log.is_file() else "")
    steps = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    return [step["data"] for step in steps if step["step"]]


def environment() -> dict[str, str]:
    return {**os.environ, "VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1"}


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.nightly
@pytest.mark.parametrize("family", CASES)
def test_a_family_trains_and_is_exported(family: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [row["prompt"][0]["content"] for row in pq.read_table(data / "train.parquet", columns=["prompt"]).to_pylist()]
    base = small_bases.build(family, texts, tmp_path / "base")
    steps = train(tmp_path, base, data, *CASES[family])
    assert len(steps) == STEPS
    for step in steps:
        # The engine that writes and the model that is trained read the same weights, images and positions.
        assert step["training/rollout_actor_probs_pearson_corr"] > 0.98
        assert step["actor/grad_norm"] > 0
    lora = "+recipe/method=lora" in CASES[family]
    export = [sys.executable, "-m", "critic_r1_verl.cli", "export", "checkpoints", "--out", "trained", *(["--best"] if lora else [])]
    subprocess.run(export, cwd=tmp_path, env=environment(), check=True)
    before, after = weights(base), weights(tmp_path / "trained")
    assert before.keys() == after.keys()
    # verl exports in half precision.
    changed = {name for name in before if not before[name].to(after[name].dtype).equal(after[name])}
    if not lora:
        assert {"visual" in name for name in changed} == {True, False}
        return
    # verl's own merger would export the base.
    assert {name.split(".")[-2] for name in changed} == {f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")}
    assert not any("visual" in name for name in changed)
    card = (tmp_path / "trained" / "README.md").read_text()
    said = ("+recipe/method=lora", f"| step | {STEPS} |", "| chosen | for the best accuracy")
    assert [text for text in said if text not in card] == []
    # Other end-to-end tests judge with Qwen2.5-VL.
    judges(tmp_path / "trained", data, tmp_path / "judgements.jsonl", monkeypatch)


def judges(model: Path, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    pairs = list(RecordFile(data / "records.jsonl", PairRecord))[:2]
    critic = PairwiseCritic(prompts.load("critic_short"), Sampling(8))
    lines = list(judge.judge(pairs, VllmEngine(model, max_model_len=512), critic, out, root=data))
    assert len(lines) == 4 and all(line.completion_tokens for line in lines)
