# SPDX-License-Identifier: Apache-2.0
"""The name of a run, which changes with the base model, the data and every setting that influences the optimisation.

verl resumes any checkpoint that it finds in checkpoints/<project>/<experiment>. The name therefore ends in a digest of everything that must
be the same when a run is resumed. Hardware, logging, the number of steps and the saving interval are not part of it.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from critic_r1_verl.files import file_sha256

RESOLVER = "critic_r1_experiment"
SUM_RESOLVER, SHARE_RESOLVER = "critic_r1_sum", "critic_r1_share"

# Keys of verl's configuration that influence the optimisation, inner nodes with all that is in them. tests/test_recipe.py lists the others
# and fails when verl adds a key that is in neither.
OPTIMISATION = (
    "algorithm",
    "actor_rollout_ref.actor.optim",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.actor.ppo_epochs",
    "actor_rollout_ref.actor.clip_ratio",
    "actor_rollout_ref.actor.clip_ratio_low",
    "actor_rollout_ref.actor.clip_ratio_high",
    "actor_rollout_ref.actor.clip_ratio_c",
    "actor_rollout_ref.actor.tau_pos",
    "actor_rollout_ref.actor.tau_neg",
    "actor_rollout_ref.actor.policy_loss",
    "actor_rollout_ref.actor.loss_agg_mode",
    "actor_rollout_ref.actor.loss_scale_factor",
    "actor_rollout_ref.actor.entropy_coeff",
    "actor_rollout_ref.actor.use_kl_loss",
    "actor_rollout_ref.actor.kl_loss_coef",
    "actor_rollout_ref.actor.kl_loss_type",
    "actor_rollout_ref.actor.grad_clip",
    "actor_rollout_ref.actor.shuffle",
    "actor_rollout_ref.actor.data_loader_seed",
    # The precision of the weights that are trained: their updates are rounded to it.
    "actor_rollout_ref.actor.fsdp_config.model_dtype",
    "actor_rollout_ref.actor.fsdp_config.seed",
    "actor_rollout_ref.actor.fsdp_config.qat",
    "actor_rollout_ref.model.hf_config_path",
    "actor_rollout_ref.model.tokenizer_path",
    "actor_rollout_ref.model.custom_chat_template",
    "actor_rollout_ref.model.override_config",
    "actor_rollout_ref.model.lora_rank",
    "actor_rollout_ref.model.lora_alpha",
    "actor_rollout_ref.model.target_modules",
    "actor_rollout_ref.model.exclude_modules",
    "actor_rollout_ref.model.lora_adapter_path",
    "actor_rollout_ref.model.mtp",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.temperature",
    "actor_rollout_ref.rollout.top_p",
    "actor_rollout_ref.rollout.top_k",
    "actor_rollout_ref.rollout.do_sample",
    "actor_rollout_ref.rollout.ignore_eos",
    "actor_rollout_ref.rollout.seed",
    "actor_rollout_ref.rollout.multi_turn",
    "actor_rollout_ref.rollout.agent.default_agent_loop",
    "actor_rollout_ref.rollout.agent.agent_loop_config_path",
    "actor_rollout_ref.rollout.quantization",
    "data.train_batch_size",
    "data.gen_batch_size",
    "data.max_prompt_length",
    "data.max_response_length",
    "data.shuffle",
    "data.seed",
    "data.train_max_samples",
    "data.custom_cls",
    "data.truncation",
    "data.filter_overlong_prompts",
    "data.image_patch_size",
    "data.apply_chat_template_kwargs",
    "data.mm_processor_kwargs",
    "distillation.enabled",
    "reward.custom_reward_function",
    "reward.reward_manager",
    "reward.reward_kwargs",
    "reward.reward_model.enable",
    "trainer.balance_batch",
    "trainer.v1.trainer_mode",
    "trainer.v1.sampler",
    "critic_r1",
)
# How attention is computed is a matter of the machine, although it stands among the settings of the model.
NOT_OPTIMISATION = "attn_implementation"
# So is where a critic that rewards is reached, and how patiently; and the sampler is told by path what base and data are identified by.
_PLACES_OF_THE_CRITIC = ("base_url", "max_concurrency", "max_retries", "timeout_seconds")
_TOLD_TO_THE_SAMPLER = ("judge", "train_files", "model_path")


def name(recipe: str, *, _root_: Any) -> str:
    """`<recipe>-<base>-<digest>`; the digest is 8 hex digits over the base, the training data and OPTIMISATION."""
    return f"{recipe}-{base_name(str(_root_.actor_rollout_ref.model.path))}-{digest(_root_)}"


def base_name(model_path: str) -> str:
    """The last part of a hub name or folder, with only characters that are safe in file names."""
    last = model_path.rstrip("/").rsplit("/", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", last)


def digest(config: Any) -> str:
    """8 hex digits that change when resuming an old run under this configuration would be a mistake."""
    from omegaconf import OmegaConf

    def plain(key: str) -> Any:
        value = OmegaConf.select(config, key)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value

    settings = {key: plain(key) for key in OPTIMISATION}
    of_the_model = settings.pop("actor_rollout_ref.model.override_config") or {}
    if judge := settings["critic_r1"].get("judge"):
        told = settings["trainer.v1.sampler"]["sampler_kwargs"]
        settings["trainer.v1.sampler"]["sampler_kwargs"] = {key: told[key] for key in told if key not in _TOLD_TO_THE_SAMPLER}
        settings["critic_r1"]["judge"] = {key: judge[key] for key in judge if key not in _PLACES_OF_THE_CRITIC}
        settings["critic"] = base_identity(str(plain("reward.reward_model.model_path")))
    facts = {
        "settings": settings,
        "model": {key: value for key, value in of_the_model.items() if key != NOT_OPTIMISATION},
        "base": base_identity(str(plain("actor_rollout_ref.model.path"))),
        "data": [identity for _, identity in data(config)],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:8]


def data(config: Any) -> list[tuple[str, str]]:
    """The training files of a run, each with what identifies it."""
    from omegaconf import OmegaConf

    files = OmegaConf.select(config, "data.train_files")
    return [(str(file), data_identity(Path(file))) for file in (files if OmegaConf.is_config(files) else [files])]


def data_identity(file: Path) -> str:
    """The hash of the build's manifest or, without one, of the file itself; only the name of a missing file, which doctor reports."""
    for candidate in (file.parent / "manifest.json", file):
        if candidate.is_file():
            return file_sha256(candidate)
    return str(file)


def base_identity(path: str) -> list[str]:
    """What identifies the base model: its name on the hub, or, for a local folder, its path, its config's hash and its weight files.

    Weights below 100 MB in all are identified by their hashes, larger ones by their sizes, because hashing them would take minutes.
    """
    folder = Path(path)
    if not (folder / "config.json").is_file():
        return [path]
    weights = sorted(folder.glob("*.safetensors"))
    small = sum(file.stat().st_size for file in weights) < 100_000_000
    return [str(folder.resolve()), file_sha256(folder / "config.json")] + [
        f"{file.name}:{file_sha256(file) if small else file.stat().st_size}" for file in weights
    ]


def register() -> None:
    """Register our resolvers with OmegaConf in this process; called wherever verl's configuration is composed or resolved."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver(RESOLVER, name, replace=True)
    # OmegaConf does not calculate by itself.
    OmegaConf.register_new_resolver(SUM_RESOLVER, lambda *numbers: sum(numbers), replace=True)
    OmegaConf.register_new_resolver(SHARE_RESOLVER, lambda number, share: round(number * share), replace=True)
