# SPDX-License-Identifier: Apache-2.0
"""Two steps of each door that the studies of recipe/study/ open, with a small random base; and all combinations of the files of recipe/."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import small_bases
import small_world
from omegaconf import OmegaConf, open_dict

from critic_r1_verl import rows
from critic_r1_verl.training import experiment
from critic_r1_verl.training.doctor.finding import Case
from critic_r1_verl.training.doctor.recipe import check_batches, check_keys, check_recipe, check_rows

RECIPE = Path(__file__).resolve().parents[2] / "recipe"
ALL, BATCH, STEPS = ("acc", "format", "unparsed", "first", "tie", "consistent", "strict"), 8, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ with pairs and questions, and base/, a random model that writes verdicts in the required form now and then."""
    folder = small_world.make(tmp_path_factory.mktemp("studies"), train_pairs=32, val_pairs=4)
    texts = [row["prompt"][0]["content"] for row in rows.read_rows(folder / "data" / "train.parquet")]
    likely = ("<think>a</think>\\boxed{1}", "<think>a</think>\\boxed{2}", "\\boxed{1}")
    small_bases.build("qwen2_5_vl", texts, folder / "random", likely=likely)
    return folder


def train(folder: Path, out: Path, *overrides: str) -> dict[int, dict[str, Any]]:
    """The metrics of each step of a training, by its number; 0 is the validation before it."""
    data = folder / "data"
    command = [
        *(sys.executable, "-m", "critic_r1_verl.cli", "train", "--recipe", "critic_r1", "--log", str(out / "training.log")),
        *("+recipe/base=tiny", "+recipe/hardware=cpu", *overrides, f"actor_rollout_ref.model.path={folder / 'random'}"),
        *(f"data.train_files={data / 'train.parquet'}", f"data.val_files={data / 'val.parquet'}", f"data.train_batch_size={BATCH}"),
        *("data.max_prompt_length=384", "data.max_response_length=4", f"actor_rollout_ref.actor.ppo_mini_batch_size={BATCH}"),
        *("actor_rollout_ref.rollout.n=4", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4"),
        *(f"actor_rollout_ref.{part}.log_prob_micro_batch_size_per_gpu=4" for part in ("rollout", "ref")),
        *(f"critic_r1.rows.number={BATCH * STEPS}", f"trainer.save_freq={STEPS}", f"trainer.test_freq={STEPS}"),
        f"trainer.default_local_dir={out / 'checkpoints'}",
    ]
    environment = {**os.environ, "VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, timeout=900, check=False)
    log = out / "training.log"
    assert done.returncode == 0, done.stderr[-3000:] + (log.read_text()[-3000:] if log.is_file() else "")
    steps = {line["step"]: line["data"] for line in map(json.loads, (out / "training.jsonl").read_text().splitlines())}
    assert list(steps) == list(range(STEPS + 1))
    return steps


@pytest.mark.nightly
def test_both_orders_are_paid_and_compared_together(folder: Path, tmp_path: Path) -> None:
    steps = train(folder, tmp_path, "+recipe/study=eis_grpo", "critic_r1.paid=strict")
    for number in range(1, STEPS + 1):
        step = steps[number]
        assert {f"reward/{part}/mean" for part in ALL} <= step.keys()
        paid = 0.9 * step["reward/strict/mean"] + 0.1 * step["reward/format/mean"]
        assert step["critic/score/mean"] == pytest.approx(paid, abs=1e-5)
        assert step["reward/acc/mean"] >= step["reward/strict/mean"]
    for number in (0, STEPS):
        parts = ("consistent", "strict", "first", "response_tokens")
        assert {"val-core/digits/acc/mean@1", "val-core/digits/policy/acc/mean@1"} <= steps[number].keys()
        assert {f"val-aux/digits/{part}/mean@1" for part in parts} <= steps[number].keys()
        dumped = [json.loads(line) for line in (tmp_path / f"checkpoints/validation/{number}.jsonl").read_text().splitlines()]
        shown = {(line["pair_id"], line["order"]) for line in dumped if line["order"]}
        assert len(shown) == 8 and {order for _, order in shown} == {"12", "21"} and len({pair for pair, _ in shown}) == 4
    assert (tmp_path / "checkpoints" / f"best_step_{STEPS}").is_dir()


@pytest.mark.nightly
def test_one_stage_judges_and_the_next_answers(folder: Path, tmp_path: Path) -> None:
    steps = train(folder, tmp_path, "+recipe/study=critic_then_policy")
    sources = {
        number: {key.split("/acc")[0] for key in step if key.startswith("reward/digits") and key.endswith("/acc/mean")}
        for number, step in steps.items()
    }
    assert sources == {0: set(), 1: {"reward/digits"}, 2: {"reward/digits/policy"}}


@pytest.mark.nightly
def test_groups_without_a_difference_are_replaced(folder: Path, tmp_path: Path) -> None:
    steps = train(
        folder,
        tmp_path,
        "+recipe/study=dapo",
        "critic_r1.rows.number=null",
        "trainer.total_epochs=9",
        f"trainer.total_training_steps={STEPS}",
    )
    assert any(step.get("training/filter_groups/evicted_samples", 0) > 0 for step in steps.values())
    for number in range(1, STEPS + 1):
        assert 0 < steps[number]["reward/acc/mean"] < 1


@pytest.fixture
def unnamed() -> Iterator[None]:
    """Without the digest in the name of a run, which takes half of the time; tests/test_recipe.py has it."""
    OmegaConf.register_new_resolver(experiment.RESOLVER, str, replace=True)
    yield
    experiment.register()


@pytest.mark.nightly
def test_all_combinations_compose(quick_compose, unnamed: None) -> None:
    """And batches, lengths and GPUs fit together in each; that verl knows the keys is tested for each file by itself."""
    files = {kind: sorted((RECIPE / kind).glob("*.yaml")) for kind in ("base", "hardware", "method", "study")}
    recipes = [("critic_r1", [f"+recipe/base={file.stem}"]) for file in files["base"]] + [("critic_r1_plus", [])]
    studies = [OmegaConf.load(file) for file in files["study"]]
    for (recipe, base), hardware, method in product(recipes, files["hardware"], [None, *files["method"]]):
        groups = [*base, f"+recipe/hardware={hardware.stem}", *([f"+recipe/method={method.stem}"] if method else [])]
        for study in studies:
            config = quick_compose(recipe, groups)
            with open_dict(config):
                config.merge_with(study)
            OmegaConf.to_container(config, resolve=True)
            case = Case(recipe, groups, config, deep=False)
            findings = [finding for check in (check_recipe, check_keys, check_rows, check_batches) for finding in check(case)]
            assert [finding for finding in findings if finding.level == "fatal"] == [], groups
