# SPDX-License-Identifier: Apache-2.0
"""Checks of the recipe: whether Hydra found and applied it, keys that verl ignores, and sizes of batches that do not fit together."""

from collections.abc import Iterator
from typing import Any

from critic_r1_verl import mixture, pairing
from critic_r1_verl.training.doctor.finding import Case, Finding, Level

# verl's own value.
NCCL_TIMEOUT = 600
# The least learning rate at which an adapter in half precision was seen to move.
LEAST_LORA_RATE = 1e-5


def check_recipe(case: Case) -> Iterator[Finding]:
    """Whether Hydra found the recipe and applied it, and whether it includes the method."""
    config = case.config
    stray = config.get("recipe")
    if isinstance(stray, str):
        yield Finding(
            "fatal",
            f"Hydra did not find recipe/{case.recipe} and took it for a plain key: verl would train with its own defaults",
            "install this package into the same Python (`make setup`); no other package may bring a hydra_plugins/__init__.py",
        )
    elif stray is not None:
        yield Finding(
            "fatal",
            f"recipe/{case.recipe} was found but not applied: its content lies under the key 'recipe'",
            "make `# @package _global_` the first line of that file, and of every recipe file that it includes",
        )
    elif not config.get("critic_r1"):
        yield Finding("fatal", f"recipe/{case.recipe} does not include critic_r1, the method", "begin its defaults list with `- critic_r1`")
    else:
        yield Finding("ok", f"recipe {case.recipe} is found and applied")


def check_keys(case: Case) -> Iterator[Finding]:
    """Whether keys are set that verl 0.9.1 accepts without an error and then ignores, or reads under another name."""
    config, sound = case.config, True
    sampler = config.trainer.v1.sampler.custom_sampler.get("path")
    mode, fsdp = config.trainer.v1.trainer_mode, config.actor_rollout_ref.actor.fsdp_config
    computed = str(fsdp.dtype)
    table: tuple[tuple[bool, Level, str, str], ...] = (
        (
            config.algorithm.adv_estimator != "grpo",
            "warning",
            f"algorithm.adv_estimator is {config.algorithm.adv_estimator}, not grpo: that is another method",
            "leave it out unless that is what is studied",
        ),
        (
            not config.reward.custom_reward_function.get("path"),
            "fatal",
            "reward.custom_reward_function is not set: verl's default reward does not know verdicts",
            "leave it to the recipe, or name a function by reward.custom_reward_function.path and .name",
        ),
        (
            bool(_set_leaves(config.get("custom_reward_function"))),
            "fatal",
            "custom_reward_function at the top level is ignored by verl",
            "write reward.custom_reward_function instead",
        ),
        (
            bool(_set_leaves(config.get("reward_model"))),
            "fatal",
            f"reward_model.{(_set_leaves(config.get('reward_model')) or [''])[0]} at the top level is ignored by verl",
            "write reward.reward_model, or reward.reward_manager, instead",
        ),
        (
            bool(config.actor_rollout_ref.actor.get("freeze_vision_tower")),
            "fatal",
            "actor_rollout_ref.actor.freeze_vision_tower is read nowhere in verl: the vision tower would be trained all the same",
            "to keep it as it is, train an adapter on the language model alone, by +recipe/method=lora",
        ),
        (
            not config.data.get("return_multi_modal_inputs", True),
            "warning",
            "data.return_multi_modal_inputs is read nowhere in verl",
            "leave it out",
        ),
        (
            config.actor_rollout_ref.get("nccl_timeout", NCCL_TIMEOUT) != NCCL_TIMEOUT,
            "warning",
            "actor_rollout_ref.nccl_timeout is read nowhere in verl: collectives keep PyTorch's own limit, 10 minutes for NCCL",
            "leave it out; put checkpoints on a fast disk by trainer.default_local_dir, since a slow save is what usually exceeds it",
        ),
        *(
            (
                config.data.custom_cls.get("name") == "CriticDataset" and config.data[key] != column,
                "fatal",
                f"data.{key}={config.data[key]}, but the rows have {what} in the column {column!r}: {effect}",
                f"leave data.{key} out",
            )
            for key, column, what, effect in (
                ("prompt_key", "prompt", "their chat", "verl would fail at the first row"),
                ("image_key", "images", "their images", "no picture would reach the model, without an error"),
            )
        ),
        (
            computed not in ("bfloat16", "bf16") and not fsdp.get("mixed_precision"),
            "warning",
            f"actor_rollout_ref.actor.fsdp_config.dtype={computed} is not read by verl's FSDP engine, which computes in bfloat16",
            f"leave it out, or add +actor_rollout_ref.actor.fsdp_config.mixed_precision={{param_dtype:{computed}}}, and the same for ref",
        ),
        (
            bool(config.algorithm.filter_groups.enable) and sampler not in (None, "pkg://critic_r1_verl.sampler"),
            "fatal",
            f"algorithm.filter_groups.enable has no effect beside trainer.v1.sampler.custom_sampler.path={sampler}",
            "leave one of them out",
        ),
        (
            mode != "sync" and config.trainer.v1.sampler.custom_sampler.get("name") == "RewardPartsReplayBuffer",
            "fatal",
            f"trainer.v1.trainer_mode={mode} needs the asynchronous sampler",
            "add trainer.v1.sampler.custom_sampler.name=RewardPartsReplayBufferAsync",
        ),
    )
    for wrong, level, what, remedy in table:
        if wrong:
            sound = False
            yield Finding(level, what, remedy)
    actor = config.actor_rollout_ref.actor
    if (
        config.actor_rollout_ref.model.lora_rank
        and actor.fsdp_config.model_dtype in ("bf16", "bfloat16")
        and actor.optim.lr < LEAST_LORA_RATE
    ):
        sound = False
        yield Finding(
            "warning",
            f"actor_rollout_ref.actor.optim.lr={actor.optim.lr:g}: the adapter is held in bfloat16, where so small steps are rounded away",
            "name +recipe/method=lora after +recipe/base=..., so that its learning rate counts, or set one from 1e-5 to 3e-5",
        )
    if sound:
        yield Finding("ok", "no key is set that verl ignores")


def _set_leaves(node: Any, prefix: str = "") -> list[str]:
    """The dotted names of all values below node that are not null."""
    if node is None:
        return []
    if not hasattr(node, "items"):
        return [prefix]
    return [name for key, value in node.items() for name in _set_leaves(value, f"{prefix}.{key}" if prefix else str(key))]


def check_batches(case: Case) -> Iterator[Finding]:
    """Whether batch sizes, rollouts, lengths and GPUs fit together; verl checks this only after the model is loaded, or never."""
    config, sound = case.config, True
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    batch, mini, n = config.data.train_batch_size, actor.ppo_mini_batch_size, rollout.n
    numbers = {
        "data.train_batch_size": batch,
        "actor_rollout_ref.actor.ppo_mini_batch_size": mini,
        "actor_rollout_ref.rollout.n": n,
        "trainer.nnodes": config.trainer.nnodes,
        "trainer.n_gpus_per_node": config.trainer.n_gpus_per_node,
        "data.max_prompt_length": config.data.max_prompt_length,
        "data.max_response_length": config.data.max_response_length,
    }
    if wrong_keys := [key for key, number in numbers.items() if type(number) is not int or number < 1]:
        yield from (Finding("fatal", f"{key}={numbers[key]} is not a positive whole number", f"correct {key}") for key in wrong_keys)
        return
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    ranks = max(1, gpus // actor.get("ulysses_sequence_parallel_size", 1))
    tokens = config.data.max_prompt_length + config.data.max_response_length
    table = (
        (
            batch % mini != 0,
            f"data.train_batch_size={batch} is not a multiple of actor_rollout_ref.actor.ppo_mini_batch_size={mini}",
            "change one of them",
        ),
        (
            mini * n % ranks != 0 or batch * n % gpus != 0,
            f"ppo_mini_batch_size x rollout.n = {mini} x {n} does not divide among {gpus} GPUs",
            "change actor_rollout_ref.actor.ppo_mini_batch_size, or trainer.n_gpus_per_node",
        ),
        *(
            (
                n > 1 and batch % mini == 0 and not actor.use_dynamic_bsz and micro and rows % (micro * ranks) != 0,
                f"{key}={micro} does not divide the {rows // ranks} rollouts that each worker has at a time",
                f"set {key} to a divisor, or actor_rollout_ref.actor.use_dynamic_bsz=true",
            )
            for key, micro, rows in (
                ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu", actor.ppo_micro_batch_size_per_gpu, mini * n),
                (
                    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu",
                    rollout.log_prob_micro_batch_size_per_gpu,
                    batch * n,
                ),
                (
                    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu",
                    config.actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu,
                    batch * n,
                ),
            )
        ),
        (
            n < 2,
            f"actor_rollout_ref.rollout.n={n}: GRPO compares the rollouts of a group, and one has nothing to compare",
            "take 2 or more",
        ),
        (
            gpus % rollout.tensor_model_parallel_size != 0,
            f"actor_rollout_ref.rollout.tensor_model_parallel_size={rollout.tensor_model_parallel_size} does not divide {gpus} GPUs",
            "change actor_rollout_ref.rollout.tensor_model_parallel_size",
        ),
        (
            rollout.max_model_len is not None and tokens > rollout.max_model_len,
            f"prompt and response may take {tokens} tokens, more than actor_rollout_ref.rollout.max_model_len={rollout.max_model_len}",
            f"add actor_rollout_ref.rollout.max_model_len={tokens}, or lower data.max_prompt_length or data.max_response_length",
        ),
    )
    for wrong, what, remedy in table:
        if wrong:
            sound = False
            yield Finding("fatal", what, remedy)
    if sound:
        yield Finding("ok", f"{batch} prompts x {n} rollouts a step, {batch // mini} update(s) of {mini} prompts")


def check_rows(case: Case) -> Iterator[Finding]:
    """Whether the choice of the rows and what both orders of a pair earn fit the other settings; verl would find out after minutes."""
    config, ours = case.config, case.config.critic_r1
    try:
        chosen = mixture.read(ours.rows)
        whole_steps = config.trainer.v1.trainer_mode == "sync" and not config.algorithm.filter_groups.enable
        needs_both_orders = pairing.check(ours.paid, ours.group, whole_steps=whole_steps)
    except ValueError as error:
        yield Finding("fatal", str(error), "correct the recipe, the study or the override")
        return
    if chosen.in_sequence and config.data.shuffle:
        yield Finding("fatal", "data.shuffle=true, but the sequence of the rows is a part of this recipe", "add data.shuffle=false")
    if needs_both_orders and chosen.orders != "together":
        what = f"critic_r1.paid={ours.paid} critic_r1.group={ours.group} needs both orders of each pair in one step"
        yield Finding("fatal", what, "add critic_r1.rows.orders=together data.shuffle=false")
    if chosen.orders == "together" and config.data.train_batch_size % 2:
        what = f"data.train_batch_size={config.data.train_batch_size} would part the two orders of a pair"
        yield Finding("fatal", what, "take an even number")
