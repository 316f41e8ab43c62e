# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import pytest

from critic_r1_verl.report import card
from critic_r1_verl.training import experiment
from critic_r1_verl.training.doctor import CLAIM

MANIFEST = {
    "corpora": {
        "paper": {"location": "lab/paper", "revision": "abc", "licence": "mit", "counts": {"read": 9, "kept": 8}},
        "mine": {"location": "/elsewhere/mine.jsonl", "revision": "", "licence": "", "counts": {"read": 2, "kept": 2}},
    },
    "templates": {kind: {"name": kind, "text": "Which is better?\n{question}", "sha": "0"} for kind in ("pair", "question")},
    "splits": {"train": {"rows": 7}, "val": {"rows": 3}, "test": {"rows": 0}},
}
METRICS = {
    "name": "test",
    "benchmark": "pairs",
    "model": "served",
    "counts": {"pairs": 512, "questions": 0},
    "critic": {"accuracy": {"value": 0.75, "n": 1024, "ci95": [0.7, 0.8]}, "strict": None},
    "policy": None,
}


@pytest.fixture
def step(tmp_path: Path) -> Path:
    """A checkpoint of step 4 in a run's folder, with all that a run leaves and an empty folder for the model."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(MANIFEST))
    train = tmp_path / "data" / "train.parquet"
    run = tmp_path / "run"
    claim = {
        "experiment": "critic_r1-base-ab",
        "digest": "ab",
        "base": "Qwen/Qwen2.5-VL-7B-Instruct",
        "recipe": "critic_r1",
        "overrides": [f"data.train_files={train}", "data.val_files=[/a/b/one.parquet,/a/two.parquet]", "trainer.save_freq=2"],
        "data": [[str(train), experiment.data_identity(train)]],
        "steps": str(tmp_path / "steps.jsonl"),
    }
    (run / "global_step_4").mkdir(parents=True)
    (run / CLAIM).write_text(json.dumps(claim))
    lines = [
        {"step": n, "data": {"critic/score/mean": n / 10, "reward/acc/mean": n / 8, "val-core/paper/acc/mean@1": n / 6}}
        for n in range(1, 6)
    ]
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "out").mkdir()
    return run / "global_step_4"


def write(step: Path, **options) -> str:
    out = step.parents[1] / "out"
    card.write(step, 4, out, **options)
    return (out / card.CARD).read_text()


def measured(folder: Path, **changed) -> Path:
    folder.mkdir()
    for name, content in (("config.json", {}), ("records.jsonl", {}), ("metrics.json", METRICS | changed)):
        (folder / name).write_text(json.dumps(content))
    return folder


def test_the_card_has_the_runs_own_numbers(step):
    from huggingface_hub import ModelCard

    written = write(step, evals=[measured(step.parent / "eval")])
    found = ModelCard(written).data
    assert (found.base_model, found.datasets, found.pipeline_tag) == ("Qwen/Qwen2.5-VL-7B-Instruct", ["lab/paper"], "image-text-to-text")
    (result,) = found.eval_results
    assert (result.metric_value, result.metric_args) == (0.75, {"n": 1024, "ci95": [0.7, 0.8]})
    for line in (
        "# critic_r1-base-ab",
        "| step | 4 |",
        "| overrides | `data.train_files=train.parquet` `data.val_files=[one.parquet,two.parquet]` `trainer.save_freq=2` |",
        "| | step 1 | step 4 |",
        "| Accuracy of sampled verdicts | 12.5 % | 50.0 % |",
        "logged at step 4 (3 rows):",
        "| paper: right | 66.7 % |",
        "| paper | lab/paper | abc | mit | 8 of 9 |",
        "| mine | mine.jsonl | not known | not stated | 2 of 2 |",
        "`test`, 512 pairs; measured as `served`. In percent.",
        "| Critic accuracy (right verdicts, over both orders) | 75.0 | 70.0, 80.0 | 1,024 |",
        "    Which is better?",
    ):
        assert line in written.splitlines() or line in written, line
    # Only what is there: no title without a value, no folder of this machine.
    assert "Response length" not in written and "Strict" not in written and str(step.parents[1]) not in written


def test_a_checkpoint_that_was_chosen_says_by_what(step):
    step = step.rename(step.with_name("best_step_4"))
    (step.parent / "best.json").write_text(json.dumps({"step": 4, "accuracy": 0.7, "num_rows": 64, "folder": "best_step_4"}))
    assert "| chosen | for the best accuracy among the saved steps, 70.0 % of 64 held-out rows; being the best" in write(step)


def test_what_a_run_does_not_say_is_not_in_its_card(step):
    (step.parent / CLAIM).unlink()
    written = write(step)
    assert "# run" in written and "| step | 4 |" in written
    assert "base" not in written.split("## Training")[1].split("## Data")[0]
    assert "The run does not say which data it was trained on." in written
    assert "None was given." in written
    assert "model-index" not in written


def test_data_that_changed_since_are_not_described(step):
    manifest = step.parents[1] / "data" / "manifest.json"
    manifest.write_text(json.dumps(MANIFEST | {"seed": 1}))
    written = write(step)
    assert "train.parquet, of which nothing is known: the manifest beside it is missing, or was changed" in written
    assert "lab/paper" not in written


def test_measurements_of_another_model_are_refused(step):
    base = step.parents[1] / "base"
    base.mkdir()
    with pytest.raises(ValueError, match=f"measured {base}, not"):
        write(step, evals=[measured(step.parent / "eval", model=str(base))])
    with pytest.raises(ValueError, match="holds no run"):
        write(step, evals=[base])
