# SPDX-License-Identifier: Apache-2.0
"""The wheel: what is in it, and that the recipe composes from it in any directory. Built once, without network."""

import configparser
import importlib
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_top_level(names: set[str]) -> None:
    """verl's own wheel ships packages named tests and scripts, its checkouts one named recipe: ours none of them."""
    info = f"critic_r1_verl-{PROJECT['version']}.dist-info"
    assert {name.split("/")[0] for name in names} == {"critic_r1_verl", "data_prep", "hydra_plugins", info}
    assert f"{info}/licenses/LICENSE" in names


@pytest.mark.parametrize(
    ("folder", "pattern", "inside"),
    [
        ("recipe", "**/*.yaml", "critic_r1_verl/_hydra/recipe"),
        ("critic_r1_verl", "**/*.py", "critic_r1_verl"),
        ("critic_r1_verl/prompts", "*.txt", "critic_r1_verl/prompts"),
        ("critic_r1_verl/report", "*.j2", "critic_r1_verl/report"),
        ("critic_r1_verl/report", "*.css", "critic_r1_verl/report"),
        ("data_prep", "**/*.py", "data_prep"),
        ("data_prep", "**/*.j2", "data_prep"),
        ("hydra_plugins", "*.py", "hydra_plugins"),
    ],
)
def test_every_file_is_in_the_wheel(folder: str, pattern: str, inside: str, names: set[str]) -> None:
    files = {f"{inside}/{path.relative_to(ROOT / folder).as_posix()}" for path in (ROOT / folder).glob(pattern)}
    assert files and files <= names
    assert "hydra_plugins/__init__.py" not in names


def test_entry_points_lead_somewhere(wheel: Path, names: set[str]) -> None:
    entry_points = configparser.ConfigParser()
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in names if name.endswith("entry_points.txt"))
        entry_points.read_string(archive.read(name).decode())
    assert {"console_scripts", "verl.plugins", "vllm.general_plugins"} == set(entry_points.sections())
    for section in entry_points.sections():
        for target in entry_points[section].values():
            module, _, attribute = target.partition(":")
            path = module.replace(".", "/")
            assert {f"{path}.py", f"{path}/__init__.py"} & names
            # A target without attribute is imported by verl, which takes seconds: here it is enough that it is there.
            if attribute:
                assert callable(getattr(importlib.import_module(module), attribute))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel installed into a folder of its own."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return target


def python(site: Path, folder: Path, *words: str) -> str:
    """What Python prints in a folder, with the installed wheel alone: -S leaves out the path entry of an editable install."""
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{sysconfig.get_path('purelib')}"}
    done = subprocess.run([sys.executable, "-S", *words], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_recipe_composes_from_the_installed_wheel_in_another_directory(site: Path, tmp_path: Path) -> None:
    spec = importlib.util.find_spec("verl")
    assert spec and spec.submodule_search_locations
    program = f"""
import json
from hydra import compose, initialize_config_dir
with initialize_config_dir(config_dir={spec.submodule_search_locations[0] + "/trainer/config"!r}, version_base=None):
    config = compose("ppo_trainer", overrides=["+recipe=critic_r1_plus", "+recipe/hardware=cpu"])
import critic_r1_verl, sys
trainer = config.trainer
print(json.dumps([critic_r1_verl.__file__, config.algorithm.adv_estimator, trainer.experiment_name, trainer.device, "verl" in sys.modules]))
"""
    file, estimator, name, device, verl_imported = json.loads(python(site, tmp_path, "-c", program))
    assert Path(file).is_relative_to(site)
    assert (estimator, device, verl_imported) == ("grpo", "cpu", False)
    assert name.startswith("critic_r1_plus-ThinkLite-VL-7B-")


def test_the_installed_wheel_builds_and_checks_data_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    from PIL import Image

    rows = []
    for number in range(30):
        Image.new("RGB", (560, 560), (8 * number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": f"What is it? {number}", "chosen": "Red.", "rejected": "Blue."})
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ("-m", "critic_r1_verl.cli", "data")
    built = python(
        site, tmp_path, *command, "build", "--corpus", "pairs:mine.jsonl", "--no-lengths", "--num-workers", "1", "--out", "built"
    )
    assert "kept 30" in built
    assert "sound" in python(site, tmp_path, *command, "validate", "built")
    assert json.loads(python(site, tmp_path, *command, "inspect", "built", "--json"))["sources"]
    assert python(site, tmp_path, "-m", "data_prep", "validate", "built") == python(site, tmp_path, *command, "validate", "built")
