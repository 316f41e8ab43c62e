# SPDX-License-Identifier: Apache-2.0
"""When the patches of verl are applied; what they do is in e2e/test_patches.py, on the real modules."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from critic_r1_verl.training import patches

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("version", "applied"), [("0.9.1", True), ("0.9.2", False)])
def test_a_patch_is_for_one_release(tmp_path: Path, version: str, applied: bool) -> None:
    """A stand-in for verl with the module of one patch."""
    module = tmp_path / "verl" / "models" / "transformers" / "qwen2_vl.py"
    module.parent.mkdir(parents=True)
    # A folder without this file would only add to the installed verl.
    for folder in (module.parent, *module.parents[1:3]):
        (folder / "__init__.py").touch()
    module.write_text("def _get_input_embeds(): ...\n")
    (tmp_path / f"verl-{version}.dist-info").mkdir()
    (tmp_path / f"verl-{version}.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: verl\nVersion: {version}\n")
    program = """
from critic_r1_verl.training import patches
patches.install()
from verl.models.transformers import qwen2_vl
print(qwen2_vl._get_input_embeds.__module__)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": f"{tmp_path}:{ROOT}"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ("critic_r1_verl.training.patches" if applied else "verl.models.transformers.qwen2_vl")
    assert ("verl 0.9.2 is not 0.9.1" in done.stderr) is not applied


def test_a_folder_is_made_without_a_lock_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    module = SimpleNamespace()
    patches.make_folders_without_lock_files(module)
    for _ in range(2):
        assert module.local_mkdir_safe("a/b") == str(tmp_path / "a/b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


class Manager:
    """verl's rotation with two to keep: FSDPCheckpointManager.save_checkpoint with the two methods that it calls around its writing."""

    def __init__(self) -> None:
        self.previous_saved_paths: list[str] = []

    def save_checkpoint(self, local_path: str, hdfs_path: None = None, global_step: int = 0, max_ckpt_to_keep: int = 2) -> None:
        while len(self.previous_saved_paths) >= max_ckpt_to_keep:
            shutil.rmtree(self.previous_saved_paths.pop(0))
        Path(local_path).mkdir(parents=True, exist_ok=True)
        self.previous_saved_paths.append(local_path)


def test_a_resumed_training_removes_what_it_saved_before(tmp_path: Path) -> None:
    module = SimpleNamespace(FSDPCheckpointManager=type("Manager", (Manager,), {}))
    patches.rotate_after_a_resume(module)
    for start in (8, 11):
        # The manager of the resumed training is a new one.
        manager = module.FSDPCheckpointManager()
        for step in range(start, start + 3):
            manager.save_checkpoint(f"{tmp_path}/global_step_{step}/actor", None, step, max_ckpt_to_keep=2)
    assert sorted(path.parent.name for path in tmp_path.glob("*/actor")) == ["global_step_12", "global_step_13"]


def test_later_steps_and_other_folders_are_left(tmp_path: Path) -> None:
    for name in ("global_step_2/actor", "global_step_10/actor", "global_step_9/critic", "global_step_30/actor", "best_step_2/actor"):
        (tmp_path / name).mkdir(parents=True)
    earlier = patches._earlier_steps(tmp_path / "global_step_20" / "actor")
    assert earlier == [f"{tmp_path}/global_step_2/actor", f"{tmp_path}/global_step_10/actor"]
