# SPDX-License-Identifier: Apache-2.0
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from critic_r1_verl import rows
from critic_r1_verl.training import checkpoints
from critic_r1_verl.training.checkpoints import BestKeeper, best, best_folder


@pytest.fixture
def keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A keeper over 3 pairs of one source, 1 of another, each in both orders, and a question of a third."""
    kinds = [("a", "verdict")] * 3 + [("b", "verdict"), ("c", "math")]
    of_file = [
        {"data_source": source, "reward_model": {"style": style}, "extra_info": {"pair_id": str(number), "order": "12"}}
        for number, (source, style) in enumerate(kinds)
    ]
    monkeypatch.setattr(rows, "stream_rows", lambda file: iter(of_file))
    trainer, data = SimpleNamespace(default_local_dir=str(tmp_path)), SimpleNamespace(val_files="val.parquet")
    return BestKeeper(SimpleNamespace(trainer=trainer, data=data, critic_r1=SimpleNamespace(val_orders="both")))


def save(folder: Path, number: int) -> Path:
    actor = folder / f"global_step_{number}" / "actor"
    (actor / "huggingface").mkdir(parents=True)
    for name in (
        "model_world_size_1_rank_0.pt",
        "optim_world_size_1_rank_0.pt",
        "extra_state_world_size_1_rank_0.pt",
        "huggingface/config.json",
    ):
        (actor / name).write_text(f"{name} of {number}")
    return actor.parent


def validated(number: int, a: float, b: float) -> dict:
    accuracies = {f"val-core/{source}/acc/mean@1": value for source, value in (("a", a), ("b", b), ("c", 1.0))}
    return {"step": number, "data": {**accuracies, "val-aux/a/format/mean@1": 1.0, "critic/score/mean": 0.5}}


def test_the_best_checkpoint_outlives_verls_rotation(keeper, tmp_path):
    for number, a, b in ((1, 0.4, 0.4), (2, 0.8, 0.4), (3, 0.8, 0.4), (4, 0.6, 0.9)):
        step = save(tmp_path, number)
        keeper(validated(number, a, b))
        if number < 4:
            shutil.rmtree(step)
    assert best(tmp_path) == (2, pytest.approx(0.7), 8, "best_step_2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.json", "best_step_2", "global_step_4"]
    kept = best_folder(tmp_path)
    assert sorted(str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()) == [
        "actor/huggingface/config.json",
        "actor/model_world_size_1_rank_0.pt",
    ]
    assert (kept / "actor/model_world_size_1_rank_0.pt").read_text() == "model_world_size_1_rank_0.pt of 2"


def test_steps_that_are_not_both_saved_and_validated_say_nothing(keeper, tmp_path):
    keeper(validated(1, 1.0, 1.0))
    save(tmp_path, 2)
    keeper({"step": 2, "data": {"val-core/a/acc/mean@1": 1.0}})
    keeper({"step": 2, "data": {"critic/score/mean": 1.0}})
    assert best(tmp_path) is None
    with pytest.raises(ValueError, match=r"no best checkpoint was kept; .*trainer\.save_freq, trainer\.test_freq"):
        best_folder(tmp_path)


def test_a_training_that_starts_anew_forgets_the_best_of_the_last(keeper, tmp_path):
    save(tmp_path, 5)
    keeper(validated(5, 0.9, 0.9))
    # Resumed, a training first validates again; that is not a new start.
    keeper({"step": 5, "data": {"val-core/a/acc/mean@1": 0.1, "val-core/b/acc/mean@1": 0.1}})
    assert best_folder(tmp_path).name == "best_step_5"
    keeper({"step": 1, "data": {"critic/score/mean": 0.5}})
    assert best(tmp_path) is None and not (tmp_path / "best_step_5").exists()


@pytest.mark.parametrize("links", [True, False])
def test_a_copy_is_said_to_be_one(keeper, tmp_path, monkeypatch, capsys, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda source, target: (_ for _ in ()).throw(PermissionError(1, "not permitted")))
    step = save(tmp_path, 1)
    keeper(validated(1, 0.5, 0.5))
    name = "actor/model_world_size_1_rank_0.pt"
    assert (best_folder(tmp_path) / name).samefile(step / name) is links
    assert ("copied, since this file system has no hard links" in capsys.readouterr().err) is not links


def test_a_broken_file_is_named(tmp_path):
    (tmp_path / checkpoints.BEST).write_text('{"step": 1}')
    with pytest.raises(ValueError, match=r"best\.json: cannot be read .*; remove it, and export a global_step_N folder"):
        best(tmp_path)
