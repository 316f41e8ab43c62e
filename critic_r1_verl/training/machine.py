# SPDX-License-Identifier: Apache-2.0
"""What a training needs on this machine beside its own overrides."""

import os

from critic_r1_verl import devices, foreign


def with_own(overrides: list[str]) -> list[str]:
    """The overrides, with those that this machine needs, which a message announces: without flash-attn, those that go without it; if there
    is no GPU and none was requested, those for the small base on the CPU."""
    from critic_r1_verl.training.doctor.machine import WITHOUT_FLASH_ATTN, has_flash_attn

    cpu_override = "+recipe/hardware=cpu"
    keys = {word.lstrip("+").split("=", 1)[0]: word for word in overrides}
    here = os.environ.get("VERL_PLATFORM", "nvidia") in ("", "nvidia", "amd") and not os.environ.get("RAY_ADDRESS")
    if here and devices.gpu_count() and not has_flash_attn():
        added = [word for key, word in WITHOUT_FLASH_ATTN.items() if key not in keys]
        # A micro-batch is cut by its real tokens, but then padded to its longest row.
        remedy = "if memory runs out, halve actor_rollout_ref.actor.ppo_max_token_len_per_gpu"
        foreign.say(f"flash-attn is not installed: slower, with padding ({remedy}), by {' '.join(added) or 'your overrides'}")
        return added + overrides
    asks_for_gpus = "trainer.device" in keys or keys.get("recipe/hardware", cpu_override) != cpu_override
    if os.environ.get("VERL_PLATFORM") or os.environ.get("RAY_ADDRESS") or asks_for_gpus or devices.gpu_count():
        return overrides
    added = [word for key, word in (("recipe/base", "+recipe/base=tiny"), ("recipe/hardware", cpu_override)) if key not in keys]
    os.environ["VERL_PLATFORM"] = "cpu"
    foreign.say(f"no GPU here: training the small base on the CPU, as if by VERL_PLATFORM=cpu {' '.join(added)}".rstrip())
    return added + overrides
