# SPDX-License-Identifier: Apache-2.0
"""The recipes, composed against the installed verl's own YAML tree, as its main_ppo composes them; verl itself is not imported."""

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
import rehearsal

from critic_r1_verl.critic_reward import judging

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "recipe").rglob("*.yaml"))
BASES = sorted(path.stem for path in (ROOT / "recipe" / "base").glob("*.yaml"))
HARDWARE = sorted(path.stem for path in (ROOT / "recipe" / "hardware").glob("*.yaml"))
METHODS = sorted(path.stem for path in (ROOT / "recipe" / "method").glob("*.yaml"))
STUDIES = sorted(path.stem for path in (ROOT / "recipe" / "study").glob("*.yaml"))

spec = importlib.util.find_spec("verl")
assert spec and spec.submodule_search_locations
VERL = Path(spec.submodule_search_locations[0])

# What verl or one of our doors reads although verl's YAML tree does not declare it, with the file (below verl, or ours) and the text that
# prove it.
READ_BUT_NOT_DECLARED = {
    "reward.custom_reward_function.reward_kwargs": ("trainer/ppo/reward.py", 'reward_fn_config.get("reward_kwargs"'),
    "actor_rollout_ref.rollout.engine_kwargs.vllm.limit_mm_per_prompt": (
        "workers/rollout/vllm_rollout/vllm_async_server.py",
        "**engine_kwargs,",
    ),
    "actor_rollout_ref.rollout.enable_sleep_mode": ("workers/config/rollout.py", "enable_sleep_mode: bool"),
    "reward.reward_model.rollout.enable_sleep_mode": ("workers/config/rollout.py", "enable_sleep_mode: bool"),
    "reward.reward_model.rollout.engine_kwargs.vllm.limit_mm_per_prompt": (
        "workers/rollout/vllm_rollout/vllm_async_server.py",
        "**engine_kwargs,",
    ),
    "actor_rollout_ref.model.override_config.attn_implementation": ("workers/config/model.py", 'override_config.get("attn_implementation"'),
    "reward.reward_kwargs.max_resp_len": ("experimental/reward_loop/reward_manager/dapo.py", '.get("max_resp_len", None)'),
    "reward.reward_kwargs.overlong_buffer_cfg": ("experimental/reward_loop/reward_manager/dapo.py", '.get("overlong_buffer_cfg", None)'),
    "data.custom_cls.train": ("critic_r1_verl/dataset.py", "settings.train"),
    "data.custom_cls.val_orders": ("critic_r1_verl/dataset.py", "settings.val_orders"),
    "trainer.v1.sampler.sampler_kwargs.paid": ("critic_r1_verl/sampler.py", "settings.paid"),
    "trainer.v1.sampler.sampler_kwargs.group": ("critic_r1_verl/sampler.py", "settings.group"),
    "trainer.v1.sampler.sampler_kwargs.accuracy_weight": ("critic_r1_verl/sampler.py", "settings.accuracy_weight"),
    "trainer.v1.sampler.sampler_kwargs.filter_groups": ("critic_r1_verl/sampler.py", "settings.filter_groups"),
    "trainer.v1.sampler.sampler_kwargs.train_batch_size": ("critic_r1_verl/sampler.py", "settings.train_batch_size"),
    "trainer.v1.sampler.sampler_kwargs.judge": ("critic_r1_verl/critic_sampler.py", "sampler_kwargs.judge"),
    "trainer.v1.sampler.sampler_kwargs.train_files": ("critic_r1_verl/critic_sampler.py", "sampler_kwargs.train_files"),
    "trainer.v1.sampler.sampler_kwargs.model_path": ("critic_r1_verl/critic_sampler.py", "sampler_kwargs.model_path"),
    # Everything under ray_init goes to ray.init as keyword arguments.
    "ray_kwargs.ray_init.num_gpus": ("trainer/main_ppo.py", "ray.init(**OmegaConf.to_container(ray_init_kwargs))"),
    "ray_kwargs.ray_init.include_dashboard": ("trainer/main_ppo.py", "ray.init(**OmegaConf.to_container(ray_init_kwargs))"),
}


def hydra_compose(*overrides: str) -> Any:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(config_dir=str(VERL / "trainer" / "config"), version_base=None):
        return compose("ppo_trainer", overrides=list(overrides))


@pytest.fixture(scope="module")
def compose(quick_compose) -> Callable[..., Any]:
    """Composed once for each recipe and its overrides: not to be changed in place."""
    return functools.cache(lambda recipe, *overrides: quick_compose(recipe, list(overrides)))


def leaves(config: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value, of a plain dict."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        found |= leaves(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return found


def plain(config: Any) -> dict[str, Any]:
    """The leaves of a configuration, interpolations as they are written."""
    from omegaconf import OmegaConf

    return leaves(OmegaConf.to_container(config, resolve=False))


def resolved(config: Any) -> dict[str, Any]:
    """The leaves of a configuration, interpolations replaced by their values."""
    from omegaconf import OmegaConf

    return leaves(OmegaConf.to_container(config, resolve=True))


@pytest.fixture(scope="module")
def declared() -> set[str]:
    """Every key of verl's own configuration, inner nodes included."""
    return {".".join(parts[: length + 1]) for parts in (key.split(".") for key in plain(hydra_compose())) for length in range(len(parts))}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_file_is_applied_globally(path: Path) -> None:
    """Without this line Hydra puts the content under `recipe:`, where nobody reads it, and says nothing."""
    assert path.read_text().splitlines()[0] == "# @package _global_"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_key_is_one_that_verl_reads(path: Path, declared: set[str]) -> None:
    keys = leaves({key: value for key, value in yaml.safe_load(path.read_text()).items() if key not in ("defaults", "critic_r1", "hydra")})
    unknown = [key for key in keys if key not in declared and not key.startswith(tuple(READ_BUT_NOT_DECLARED))]
    assert unknown == []


@pytest.mark.parametrize(("key", "proof"), READ_BUT_NOT_DECLARED.items())
def test_undeclared_keys_are_read_by_verl(key: str, proof: tuple[str, str], declared: set[str]) -> None:
    file, text = proof
    assert key not in declared, f"verl now declares {key}: take it off the list"
    assert text in (ROOT if file.startswith("critic_r1_verl/") else VERL).joinpath(file).read_text()


def test_hydra_leaves_nothing_in_the_folder_in_which_training_starts() -> None:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(config_dir=str(VERL / "trainer" / "config"), version_base=None):
        hydra = compose("ppo_trainer", overrides=["+recipe=critic_r1_plus"], return_hydra_config=True).hydra
    assert hydra.run.dir == "." and hydra.output_subdir is None
    assert [handler["class"] for handler in hydra.job_logging.handlers.values()] == ["logging.StreamHandler"]


def test_bases_and_hardware_set_different_keys() -> None:
    keys = {
        kind: {key for name in names for key in leaves(yaml.safe_load((ROOT / f"recipe/{kind}/{name}.yaml").read_text()))}
        for kind, names in (("base", BASES), ("hardware", HARDWARE))
    }
    assert not keys["base"] & keys["hardware"]


def test_a_study_and_a_machine_or_a_method_set_different_keys() -> None:
    """So that they may be combined in any sequence; of those that a base sets too, the study's own holds if it is said after the base."""
    others = {key for kind, names in (("hardware", HARDWARE), ("method", METHODS)) for name in names for key in content(f"{kind}/{name}")}
    assert [study for study in STUDIES if others & content(f"study/{study}").keys()] == []


@pytest.fixture(scope="module")
def golden() -> dict[str, dict[str, Any]]:
    return yaml.safe_load((ROOT / "tests/golden/studies.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def critic_r1(compose) -> dict[str, Any]:
    return resolved(compose("critic_r1"))


@pytest.mark.parametrize("study", STUDIES)
def test_what_a_study_changes(compose, critic_r1: dict[str, Any], golden: dict[str, dict[str, Any]], study: str) -> None:
    """The golden file holds each key that differs from critic_r1, with both values; the name of a run and its folders follow them."""
    other = resolved(compose("critic_r1", f"+recipe/study={study}"))
    changed = {key for key in critic_r1.keys() | other.keys() if critic_r1.get(key) != other.get(key)}
    names = {key for key in changed if key.endswith(("experiment_name", "default_local_dir", "validation_data_dir"))}
    assert len(names) == 4
    assert {key: [critic_r1.get(key), other.get(key)] for key in changed - names} == golden[study]


def test_the_readme_has_a_row_for_each_study_and_each_study_a_golden_change(golden: dict[str, dict[str, Any]]) -> None:
    assert sorted(golden) == STUDIES
    section = (ROOT / "recipe" / "README.md").read_text(encoding="utf-8").split("## Studies")[1].split("\n## ")[0]
    assert sorted(line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ") and "study |" not in line) == STUDIES


def test_one_key_sets_every_seed(changed) -> None:
    config = changed({"critic_r1.seed": 3})
    seeds = {key for key, value in resolved(config).items() if key.split(".")[-1] in ("seed", "data_loader_seed") and value == 3}
    assert seeds == {
        *("critic_r1.seed", "critic_r1.rows.seed", "data.seed", "data.custom_cls.train.seed"),
        *(f"actor_rollout_ref.{key}" for key in ("actor.data_loader_seed", "actor.fsdp_config.seed", "rollout.seed")),
    }


def content(name: str) -> dict[str, Any]:
    """The leaves of a file of recipe/, as OmegaConf reads them: PyYAML takes 1e-6 for a text."""
    from omegaconf import OmegaConf

    return leaves(OmegaConf.to_container(OmegaConf.load(ROOT / f"recipe/{name}.yaml"), resolve=False))


def test_hydra_puts_each_file_on_top_of_those_before_it(quick_compose) -> None:
    """So that the other tests may merge the files themselves, which takes a tenth of the time."""
    kinds = {"base": BASES, "hardware": HARDWARE, "method": METHODS, "study": STUDIES}
    merged = quick_compose("critic_r1", [f"+recipe/{kind}={name}" for kind, names in kinds.items() for name in names])
    assert plain(hydra_compose("+recipe=critic_r1", *(f"+recipe/{kind}=[{','.join(names)}]" for kind, names in kinds.items()))) == plain(
        merged
    )


# One of each: two files of different kinds set few keys both (a base and a method the learning rate, the CPU and a method the precision),
# and all pairs of them would take a minute.
@pytest.mark.parametrize(
    ("recipe", "overrides"),
    [
        *(("critic_r1", (f"+recipe/base={base}",)) for base in BASES),
        *(("critic_r1", (f"+recipe/hardware={hardware}",)) for hardware in HARDWARE),
        *(("critic_r1", ("+recipe/base=qwen2_5_vl_3b", f"+recipe/method={method}", "+recipe/hardware=1x24g")) for method in METHODS),
        ("critic_r1", ("+recipe/base=tiny", "+recipe/hardware=cpu")),
        ("critic_r1", ("+recipe/base=tiny", "+recipe/hardware=cpu", "+recipe/study=eis_grpo")),
        ("critic_r1_plus", ()),
        ("critic_reward", ()),
        ("critic_reward", ("+recipe/base=tiny", "+recipe/hardware=cpu")),
    ],
)
def test_each_file_composes_and_resolves(compose, recipe: str, overrides: tuple[str, ...]) -> None:
    from omegaconf import OmegaConf

    config = compose(recipe, *overrides)
    assert "recipe" not in config and config.algorithm.adv_estimator == "grpo"
    said: dict[str, Any] = {}
    for override in overrides:
        said |= content(override.removeprefix("+recipe/").replace("=", "/"))
    assert {key: OmegaConf.select(config, key) for key in said} == said
    for section in ("critic_r1", "data", "trainer", "algorithm", "actor_rollout_ref", "ray_kwargs"):
        OmegaConf.to_container(config[section], resolve=True)
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert isinstance(actor.optim.lr, float)
    batch, update, gpus = config.data.train_batch_size, actor.ppo_mini_batch_size, config.trainer.nnodes * config.trainer.n_gpus_per_node
    assert batch % update == 0 and update * rollout.n % gpus == 0 and gpus % rollout.tensor_model_parallel_size == 0
    longest = config.data.max_prompt_length + config.data.max_response_length
    assert rollout.max_model_len == longest and (longest <= actor.ppo_max_token_len_per_gpu or not actor.use_dynamic_bsz)
    assert rollout.engine_kwargs.vllm.limit_mm_per_prompt == {"image": config.critic_r1.max_images, "video": 0}
    assert config.reward.custom_reward_function.reward_kwargs == {
        "accuracy_weight": 0.9,
        "format_weight": 0.1,
        "thought_opened": False,
    }
    for door in (config.reward.custom_reward_function, config.data.custom_cls, config.trainer.v1.sampler.custom_sampler):
        module = importlib.util.find_spec(door.path.removeprefix("pkg://"))
        assert module and module.origin and f" {door.name}(" in Path(module.origin).read_text()
    if "judge" in config.critic_r1:
        judging.read(OmegaConf.to_container(config.trainer.v1.sampler.sampler_kwargs.judge, resolve=True))


def test_verl_gives_a_critic_devices_only_if_it_serves_one(quick_compose) -> None:
    """verl makes the pool of a reward model whenever it is asked for, also for one that is not there."""
    served = ["reward.reward_model.enable=true", "reward.reward_model.model_path=runs/trained"]
    for overrides, has_devices in (["critic_r1.judge.base_url=http://localhost:8000/v1"], False), (served, True):
        config = quick_compose("critic_reward", overrides)
        assert config.reward.reward_model.enable_resource_pool is has_devices
        critic, policy = config.reward.reward_model.rollout, config.actor_rollout_ref.rollout
        assert critic.max_model_len == policy.max_model_len + 2 * config.data.max_response_length
        assert critic.engine_kwargs.vllm.limit_mm_per_prompt == policy.engine_kwargs.vllm.limit_mm_per_prompt


def test_a_hardware_file_leaves_nothing_of_the_default_one() -> None:
    """It is composed on top of 8x80g, whose keys it must therefore all set; the CPU's has no use for the number of tokens."""
    default = content("hardware/8x80g").keys()
    for hardware in HARDWARE:
        unset = default - content(f"hardware/{hardware}").keys()
        unused = {"actor_rollout_ref.actor.ppo_max_token_len_per_gpu", "actor_rollout_ref.rollout.gpu_memory_utilization"}
        assert unset <= (unused if hardware == "cpu" else set()), hardware


def test_hardware_changes_no_mathematics(compose) -> None:
    """No hardware file touches a key that shapes the optimisation: hardware does not rename a run, a method does."""
    from critic_r1_verl.training.experiment import NOT_OPTIMISATION, OPTIMISATION

    for hardware in HARDWARE:
        shaping = [key for key in content(f"hardware/{hardware}") if key.startswith(OPTIMISATION) and not key.endswith(NOT_OPTIMISATION)]
        assert shaping == [], hardware
    name = compose("critic_r1").trainer.experiment_name
    assert all(compose("critic_r1", f"+recipe/hardware={hardware}").trainer.experiment_name == name for hardware in HARDWARE)
    lora = ("critic_r1", "+recipe/base=qwen2_5_vl_3b", "+recipe/method=lora", "+recipe/hardware=1x24g")
    renamed = compose(*lora).trainer.experiment_name
    assert renamed.startswith("critic_r1-Qwen2.5-VL-3B-Instruct-")
    assert renamed != compose("critic_r1", "+recipe/base=qwen2_5_vl_3b").trainer.experiment_name


# Keys of verl that do not shape the optimisation: speed, memory, machines, logging, saving, validation, what another algorithm or engine
# reads, and what nothing reads. A key of a new verl has to be put here or into experiment.OPTIMISATION.
OTHER_KEYS = {
    "actor_rollout_ref": (
        *("_target_", "hybrid_engine", "nccl_timeout", "ref"),
        *(
            "model.path",
            "model._target_",
            "model.use_shm",
            "model.trust_remote_code",
            "model.external_lib",
            "model.enable_gradient_checkpointing",
        ),
        *("model.enable_activation_offload", "model.use_remove_padding", "model.use_liger", "model.use_fused_kernels"),
        *("model.fused_kernel_options", "model.tiled_mlp", "model.lora"),
        *("actor._target_", "actor.rollout_n", "actor.strategy", "actor.ppo_micro_batch_size", "actor.use_dynamic_bsz"),
        *("actor.ppo_max_token_len_per_gpu", "actor.freeze_vision_tower", "actor.calculate_entropy", "actor.calculate_sum_pi_squared"),
        *(
            "actor.use_prefix_grouper",
            "actor.use_torch_compile",
            "actor.checkpoint",
            "actor.use_fused_kernels",
            "actor.profiler",
            "actor.qat",
        ),
        *("actor.ulysses_sequence_parallel_size", "actor.entropy_from_logits", "actor.entropy_checkpointing", "actor.pad_to_length"),
        *("actor.use_remove_padding", "actor.fsdp_config."),
        *("rollout._target_", "rollout.name", "rollout.mode", "rollout.nnodes", "rollout.n_gpus_per_node", "rollout.full_determinism"),
        *("rollout.prompt_length", "rollout.response_length", "rollout.dtype", "rollout.gpu_memory_utilization", "rollout.enforce_eager"),
        *("rollout.cudagraph_capture_sizes", "rollout.free_cache_engine", "rollout.enable_sleep_mode", "rollout.load_format"),
        *("rollout.tensor_model", "rollout.data_parallel_size", "rollout.expert_parallel_size", "rollout.pipeline_model"),
        *("rollout.max_num", "rollout.max_model_len", "rollout.enable_chunked_prefill", "rollout.enable_prefix_caching"),
        *("rollout.logprobs_mode", "rollout.scheduling_policy", "rollout.layered_summon", "rollout.log_prob_", "rollout.disable_log_stats"),
        *("rollout.over_sample_rate", "rollout.multi_stage_wake_up", "rollout.engine_kwargs", "rollout.val_kwargs"),
        *("rollout.router_config_path", "rollout.calculate_log_probs", "rollout.agent.", "rollout.checkpoint_engine", "rollout.trace"),
        *("rollout.skip_tokenizer_init", "rollout.enable_rollout_routing_replay", "rollout.moe_load", "rollout.profiler"),
        *("rollout.prometheus", "rollout.mtp", "rollout.qat", "rollout.disaggregation"),
    ),
    "data": (
        *("tokenizer", "use_shm", "train_files", "val_files", "val_max_samples", "prompt_key", "reward_fn_key", "val_batch_size"),
        *("tool_config_path", "function_tool_path", "return_", "dataloader_num_workers", "validation_shuffle"),
        *("filter_overlong_prompts_workers", "image_key", "video_key", "audio_key", "trust_remote_code"),
    ),
    "reward": ("_target_", "num_workers", "reward_model.", "sandbox_fusion"),
}


def test_the_digest_knows_every_key_of_verl(compose) -> None:
    from critic_r1_verl.training.experiment import OPTIMISATION

    known = (*OPTIMISATION, *(f"{section}.{key}" for section, keys in OTHER_KEYS.items() for key in keys))
    keys = plain(compose("critic_r1", "+recipe/hardware=cpu"))
    assert [key for key in keys if key.startswith(tuple(f"{section}." for section in OTHER_KEYS)) and not key.startswith(known)] == []
    unknown = [key for key in OPTIMISATION if not any(name.startswith(key) for name in (*keys, *READ_BUT_NOT_DECLARED))]
    assert unknown == [], "verl has no such key"


def test_reward_weights_reach_the_reward(changed) -> None:
    config = changed({"critic_r1.format_weight": 0.2})
    assert config.reward.custom_reward_function.reward_kwargs.format_weight == 0.2


def test_plus_differs_in_base_learning_rate_and_name_only(compose) -> None:
    one, plus = plain(compose("critic_r1")), plain(compose("critic_r1_plus"))
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
            OmegaConf.update(config, key, value, force_add=True)
        return config

    return change


@pytest.mark.parametrize(
    ("key", "value", "renames"),
    [
        ("actor_rollout_ref.model.path", "other/model-7b", True),
        ("actor_rollout_ref.actor.optim.lr", 3e-7, True),
        ("actor_rollout_ref.model.lora_rank", 64, True),
        ("actor_rollout_ref.model.lora_alpha", 128, True),
        ("actor_rollout_ref.model.target_modules", ["q_proj"], True),
        ("actor_rollout_ref.model.exclude_modules", ".*visual.*", True),
        ("actor_rollout_ref.model.override_config", {"attention_dropout": 0.1}, True),
        ("actor_rollout_ref.model.override_config", {"attn_implementation": "sdpa"}, False),
        ("actor_rollout_ref.actor.fsdp_config.model_dtype", "bfloat16", True),
        ("actor_rollout_ref.actor.loss_scale_factor", 100, True),
        ("actor_rollout_ref.rollout.seed", 7, True),
        ("algorithm.gamma", 0.9, True),
        ("data.apply_chat_template_kwargs", {"enable_thinking": False}, True),
        ("critic_r1.thought_opened", True, True),
        ("critic_r1.format_weight", 0.2, True),
        ("data.train_files", "elsewhere/train.parquet", True),
        ("data.seed", 2, True),
        ("trainer.n_gpus_per_node", 4, False),
        ("data.val_batch_size", 8, False),
        ("actor_rollout_ref.ref.fsdp_config.model_dtype", "fp32", False),
        ("actor_rollout_ref.actor.ppo_max_token_len_per_gpu", 8192, False),
        ("actor_rollout_ref.rollout.gpu_memory_utilization", 0.3, False),
        ("actor_rollout_ref.actor.fsdp_config.param_offload", False, False),
        ("trainer.logger", ["console"], False),
        ("trainer.save_freq", 1, False),
        ("trainer.total_epochs", 2, False),
        ("trainer.total_training_steps", 7, False),
    ],
)
def test_experiment_name_changes_with_what_shapes_the_run(compose, changed, key: str, value: Any, renames: bool) -> None:
    name = compose("critic_r1").trainer.experiment_name
    assert (changed({key: value}).trainer.experiment_name != name) is renames


@pytest.mark.parametrize(
    ("override", "renames"),
    [
        ("critic_r1.judge.base_url=http://elsewhere/v1", False),
        ("critic_r1.judge.timeout_seconds=60", False),
        ("critic_r1.judge.model=another", True),
        ("critic_r1.judge.opponents=1", True),
        ("critic_r1.judge.verdicts=coin", True),
        ("reward.reward_model.model_path=another", True),
    ],
)
def test_experiment_name_follows_the_critic_and_not_its_place(compose, override: str, renames: bool) -> None:
    assert (compose("critic_reward").trainer.experiment_name != compose("critic_reward", override).trainer.experiment_name) is renames


def test_experiment_name_follows_base_and_recipe(compose, changed) -> None:
    other = changed({"actor_rollout_ref.model.path": "/models/Other-3B/"})
    assert other.trainer.experiment_name.startswith("critic_r1-Other-3B-")
    assert compose("critic_r1_plus").trainer.experiment_name.startswith("critic_r1_plus-ThinkLite-VL-7B-")


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
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = f"""
import sys
sys.path.append({str(Path(yaml.__file__).parents[1])!r})
from hydra import compose, initialize_config_dir
with initialize_config_dir(config_dir={str(VERL / "trainer" / "config")!r}, version_base=None):
    config = compose("ppo_trainer", overrides=["+recipe=critic_r1"])
print(config.recipe, config.algorithm.adv_estimator)
"""
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["critic_r1", "gae"]


def test_the_rehearsal_changes_what_its_table_says_and_nothing_else(compose) -> None:
    job, rehearsed = plain(compose("critic_r1")), plain(compose("critic_r1", *rehearsal.overrides("/folder")))
    assert {key for key in job.keys() | rehearsed.keys() if job.get(key) != rehearsed.get(key)} == set(rehearsal.CHANGED)
    readme = (ROOT / "recipe" / "README.md").read_text(encoding="utf-8").splitlines()
    section = readme[readme.index("## Rehearsal") :]
    assert [line for line in section if line.startswith("| ") and "." in line.split("|")[1]] == rehearsal.table(job)
