# SPDX-License-Identifier: Apache-2.0
"""The recipes, composed against the installed verl's own YAML tree, as its main_ppo composes them; verl itself is not imported."""

import functools
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
import rehearsal

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "recipe").rglob("*.yaml"))
BASES = sorted(path.stem for path in (ROOT / "recipe" / "base").glob("*.yaml"))
HARDWARE = sorted(path.stem for path in (ROOT / "recipe" / "hardware").glob("*.yaml"))

spec = importlib.util.find_spec("verl")
assert spec and spec.submodule_search_locations
VERL = Path(spec.submodule_search_locations[0])

# What verl reads although its YAML tree does not declare it, with the file (below verl) and the text that prove it.
READ_BUT_NOT_DECLARED = {
    "reward.custom_reward_function.reward_kwargs": ("trainer/ppo/reward.py", 'reward_fn_config.get("reward_kwargs"'),
    "actor_rollout_ref.rollout.enable_sleep_mode": ("workers/config/rollout.py", "enable_sleep_mode: bool"),
    "actor_rollout_ref.model.override_config.attn_implementation": ("workers/config/model.py", 'override_config.get("attn_implementation"'),
    # Everything under ray_init goes to ray.init as keyword arguments.
    "ray_kwargs.ray_init.num_gpus": ("trainer/main_ppo.py", "ray.init(**OmegaConf.to_container(ray_init_kwargs))"),
    "ray_kwargs.ray_init.include_dashboard": ("trainer/main_ppo.py", "ray.init(**OmegaConf.to_container(ray_init_kwargs))"),
}


@functools.cache
def compose(*overrides: str) -> Any:
    """Composed once for each set of overrides: not to be changed in place."""
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(config_dir=str(VERL / "trainer" / "config"), version_base=None):
        return compose("ppo_trainer", overrides=list(overrides))


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value, of a plain dict."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        found |= leaves(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return found


def resolved(*overrides: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    config = OmegaConf.to_container(compose(*overrides), resolve=False)
    assert isinstance(config, dict)
    return leaves(config)


@pytest.fixture(scope="module")
def declared() -> set[str]:
    """Every key of verl's own configuration, inner nodes included."""
    return {".".join(parts[: length + 1]) for parts in (key.split(".") for key in resolved()) for length in range(len(parts))}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_file_is_applied_globally(path: Path) -> None:
    """Without this line Hydra puts the content under `recipe:`, where nobody reads it, and says nothing."""
    assert path.read_text().splitlines()[0] == "# @package _global_"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_key_is_one_that_verl_reads(path: Path, declared: set[str]) -> None:
    keys = leaves({key: value for key, value in yaml.safe_load(path.read_text()).items() if key not in ("defaults", "critic_r1")})
    unknown = [key for key in keys if key not in declared and not key.startswith(tuple(READ_BUT_NOT_DECLARED))]
    assert unknown == []


@pytest.mark.parametrize(("key", "proof"), READ_BUT_NOT_DECLARED.items())
def test_undeclared_keys_are_read_by_verl(key: str, proof: tuple[str, str], declared: set[str]) -> None:
    file, text = proof
    assert key not in declared, f"verl now declares {key}: take it off the list"
    assert text in (VERL / file).read_text()


def test_bases_and_hardware_set_different_keys() -> None:
    keys = {
        kind: {key for name in names for key in leaves(yaml.safe_load((ROOT / f"recipe/{kind}/{name}.yaml").read_text()))}
        for kind, names in (("base", BASES), ("hardware", HARDWARE))
    }
    assert not keys["base"] & keys["hardware"]


# Bases and hardware set different keys, so each is composed once and not with each of the others.
@pytest.mark.parametrize(
    ("recipe", "base", "hardware"),
    [
        *(("critic_r1", base, "8x80g") for base in BASES),
        *(("critic_r1", "qwen2_5_vl_7b", hardware) for hardware in HARDWARE),
        ("critic_r1_plus", "thinklite_vl_7b", "8x80g"),
        ("critic_r1", "tiny", "cpu"),
    ],
)
def test_it_composes_and_resolves(recipe: str, base: str, hardware: str) -> None:
    from omegaconf import OmegaConf

    config = compose(f"+recipe={recipe}", f"+recipe/base={base}", f"+recipe/hardware={hardware}")
    assert "recipe" not in config and config.algorithm.adv_estimator == "grpo"
    assert (
        config.actor_rollout_ref.model.path
        == yaml.safe_load((ROOT / f"recipe/base/{base}.yaml").read_text())["actor_rollout_ref"]["model"]["path"]
    )
    for section in ("critic_r1", "data", "trainer", "algorithm", "actor_rollout_ref", "ray_kwargs"):
        OmegaConf.to_container(config[section], resolve=True)
    assert isinstance(config.actor_rollout_ref.actor.optim.lr, float)
    batch, update = config.data.train_batch_size, config.actor_rollout_ref.actor.ppo_mini_batch_size
    assert batch % update == 0 and update * config.actor_rollout_ref.rollout.n % config.trainer.n_gpus_per_node == 0
    assert config.reward.custom_reward_function.reward_kwargs == {"accuracy_weight": 0.9, "format_weight": 0.1}
    for door in (config.reward.custom_reward_function, config.data.custom_cls, config.trainer.v1.sampler.custom_sampler):
        module = importlib.util.find_spec(door.path.removeprefix("pkg://"))
        assert module and module.origin and f" {door.name}(" in Path(module.origin).read_text()


def test_reward_weights_reach_the_reward(changed) -> None:
    config = changed({"critic_r1.format_weight": 0.2})
    assert config.reward.custom_reward_function.reward_kwargs.format_weight == 0.2


def test_plus_differs_in_base_learning_rate_and_name_only() -> None:
    one, plus = resolved("+recipe=critic_r1"), resolved("+recipe=critic_r1_plus")
    assert {key for key in one.keys() | plus.keys() if one.get(key) != plus.get(key)} == {
        "actor_rollout_ref.model.path",
        "actor_rollout_ref.actor.optim.lr",
        "critic_r1.name",
    }


@pytest.fixture
def changed(quick_compose) -> Callable[[dict[str, Any]], Any]:
    """critic_r1 with other values."""

    def change(settings: dict[str, Any]) -> Any:
        from omegaconf import OmegaConf

        config = quick_compose("critic_r1", [])
        for key, value in settings.items():
            OmegaConf.update(config, key, value)
        return config

    return change


@pytest.mark.parametrize(
    ("key", "value", "renames"),
    [
        ("actor_rollout_ref.model.path", "other/model-7b", True),
        ("actor_rollout_ref.actor.optim.lr", 3e-7, True),
        ("actor_rollout_ref.model.lora_rank", 64, True),
        ("critic_r1.format_weight", 0.2, True),
        ("data.train_files", "elsewhere/train.parquet", True),
        ("data.seed", 2, True),
        ("trainer.n_gpus_per_node", 4, False),
        ("actor_rollout_ref.rollout.gpu_memory_utilization", 0.3, False),
        ("actor_rollout_ref.actor.fsdp_config.param_offload", False, False),
        ("trainer.logger", ["console"], False),
        ("trainer.save_freq", 1, False),
        ("trainer.total_epochs", 2, False),
        ("trainer.total_training_steps", 7, False),
    ],
)
def test_experiment_name_changes_with_what_shapes_the_run(changed, key: str, value: Any, renames: bool) -> None:
    name = compose("+recipe=critic_r1").trainer.experiment_name
    assert (changed({key: value}).trainer.experiment_name != name) is renames


@pytest.mark.parametrize(("hardware", "renames"), [("cpu", False), ("8x80g", False), ("1x24g", True)])
def test_experiment_name_and_hardware(hardware: str, renames: bool) -> None:
    """1x24g trains an adapter instead of the model, which is another run; the other hardware files change speed and memory only."""
    overrides = ("+recipe=critic_r1", "+recipe/base=qwen2_5_vl_7b", f"+recipe/hardware={hardware}")
    assert (compose(*overrides).trainer.experiment_name != compose("+recipe=critic_r1").trainer.experiment_name) is renames


def test_experiment_name_follows_base_and_recipe(changed) -> None:
    other = changed({"actor_rollout_ref.model.path": "/models/Other-3B/"})
    assert other.trainer.experiment_name.startswith("critic_r1-Other-3B-")
    assert compose("+recipe=critic_r1_plus").trainer.experiment_name.startswith("critic_r1_plus-ThinkLite-VL-7B-")


def test_experiment_name_follows_data_and_weights(changed, tmp_path: Path) -> None:
    base, data = tmp_path / "base", tmp_path / "data"
    base.mkdir()
    data.mkdir()
    (base / "config.json").write_text("{}")
    names = []
    for weights, manifest in (("a", "1"), ("a", "1"), ("b", "1"), ("b", "2")):
        (base / "model.safetensors").write_text(weights)
        (data / "manifest.json").write_text(manifest)
        config = changed({"actor_rollout_ref.model.path": str(base), "data.train_files": f"{data}/train.parquet"})
        names.append(config.trainer.experiment_name)
    assert names[0] == names[1] and len(set(names)) == 3


def test_without_the_plugin_the_recipe_is_silently_a_plain_key(tmp_path: Path) -> None:
    """The trap that `critic-r1 doctor` looks for: no error, and verl's own defaults. -S leaves the project's path entry out."""
    program = f"""
import sys
sys.path.append({str(Path(yaml.__file__).parents[1])!r})
from hydra import compose, initialize_config_dir
with initialize_config_dir(config_dir={str(VERL / "trainer" / "config")!r}, version_base=None):
    config = compose("ppo_trainer", overrides=["+recipe=critic_r1"])
print(config.recipe, config.algorithm.adv_estimator)
"""
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["critic_r1", "gae"]


def test_the_rehearsal_changes_what_its_table_says_and_nothing_else() -> None:
    job, rehearsed = resolved("+recipe=critic_r1"), resolved("+recipe=critic_r1", *rehearsal.overrides("/folder"))
    assert {key for key in job.keys() | rehearsed.keys() if job.get(key) != rehearsed.get(key)} == set(rehearsal.CHANGED)
    readme = (ROOT / "recipe" / "README.md").read_text(encoding="utf-8").splitlines()
    section = readme[readme.index("## Rehearsal") :]
    assert [line for line in section if line.startswith("| ") and "." in line.split("|")[1]] == rehearsal.table(job)
