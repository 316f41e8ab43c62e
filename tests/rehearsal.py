# SPDX-License-Identifier: Apache-2.0
"""The rehearsal: the 7B recipe on its own hardware file, with only the keys of CHANGED changed, so that two CPU cores can run it.

tests/e2e/test_rehearsal.py runs it; tests/test_recipe.py checks that nothing else differs and that recipe/README.md lists every key.
"""

from typing import Any

_ROLLOUT = "actor_rollout_ref.rollout"
_SMALL = "a few short rollouts show the same path"
_CPU = "there is no GPU"

# key -> (value, why). {folder} is where the test builds base and data.
CHANGED: dict[str, tuple[Any, str]] = {
    "trainer.device": ("cpu", _CPU),
    "trainer.n_gpus_per_node": (2, "two FSDP ranks, and one rollout engine of two tensor-parallel workers"),
    "ray_kwargs.ray_init.num_gpus": (2, "Ray counts these logical GPUs, because it finds no real ones"),
    "ray_kwargs.ray_init.num_cpus": (16, "verl's actors reserve more cores than a small machine has"),
    "ray_kwargs.ray_init.include_dashboard": (False, "it would start a dozen processes"),
    "transfer_queue.backend.SimpleStorage.num_data_storage_units": (1, "each is a process that imports verl"),
    "reward.num_workers": (1, "each is a process that imports verl"),
    f"{_ROLLOUT}.agent.num_workers": (1, "each is a process that imports verl"),
    "data.dataloader_num_workers": (0, "workers would only compete for the cores"),
    f"{_ROLLOUT}.enforce_eager": (True, "CUDA graphs need a GPU"),
    f"{_ROLLOUT}.free_cache_engine": (False, "there is no device memory to free"),
    f"{_ROLLOUT}.enable_sleep_mode": (False, "there is no device memory to free"),
    "actor_rollout_ref.model.path": (
        "{folder}/base",
        "a random model of the same class, with an untied head, 4 heads and 2 key-value heads",
    ),
    "data.train_files": ("{folder}/data/mixed.parquet", "a few pairs, some without an image, some of equal length"),
    "data.val_files": ("{folder}/data/val.parquet", "a few pairs"),
    "data.train_batch_size": (8, _SMALL),
    "actor_rollout_ref.actor.ppo_mini_batch_size": (4, _SMALL + ", with two updates a step as in the recipe"),
    f"{_ROLLOUT}.n": (4, _SMALL),
    "data.max_prompt_length": (1024, _SMALL),
    "data.max_response_length": (16, _SMALL),
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu": (2080, "twice the longest row, as in the recipe"),
    f"{_ROLLOUT}.max_num_seqs": (16, _SMALL),
    "trainer.total_training_steps": (2, _SMALL),
    "trainer.save_freq": (1, "a checkpoint after the first step, from which the killed run resumes"),
    "trainer.test_freq": (2, _SMALL),
    "trainer.val_before_train": (False, _SMALL),
}


def overrides(folder: str) -> list[str]:
    """CHANGED as Hydra overrides; keys that verl's YAML does not declare get a plus."""
    undeclared = ("ray_kwargs.ray_init.num_gpus", "ray_kwargs.ray_init.include_dashboard", f"{_ROLLOUT}.enable_sleep_mode")
    return [f"{'+' if key in undeclared else ''}{key}={str(value).format(folder=folder)}" for key, (value, _) in CHANGED.items()]


def table(composed: dict[str, Any]) -> list[str]:
    """The rows of the table in recipe/README.md; composed: the leaves of the 7B job."""
    return [
        f"| {key} | {composed.get(key, 'not set')} | {str(value).replace('{folder}/', '')} | {why} |"
        for key, (value, why) in CHANGED.items()
    ]
