# SPDX-License-Identifier: Apache-2.0
"""Log the parts of the reward in training. verl loads this module through `trainer.v1.sampler.custom_sampler`.

In training, verl 0.9.1 logs the score, but not the other values that compute_score returns. Its replay buffer may return metrics with each
batch, so these classes add their means over the batch: reward/acc/mean, reward/format/mean and reward/unparsed/mean.
"""

import os
import time
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

# verl polls its queue every 2 s. That does not matter for steps of minutes, but it is half of a step on a CPU.
POLL_SECONDS = float(os.environ.get("CRITIC_R1_POLL_SECONDS", "0.2"))


def reward_metrics(infos: list[dict[str, float]]) -> dict[str, float]:
    """Means over the rollouts of one batch, in [0, 1]; unparsed is 1 - parsed. Empty if there are no rollouts."""
    if not infos:
        return {}

    def mean(key: str) -> float:
        return sum(float(info[key]) for info in infos) / len(infos)

    return {"reward/acc/mean": mean("acc"), "reward/format/mean": mean("format"), "reward/unparsed/mean": 1.0 - mean("parsed")}


class _RewardParts:
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, poll_interval=POLL_SECONDS, **kwargs)  # type: ignore[call-arg]

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        """Sample as verl does, and add the parts of the reward to the metrics."""
        batch, metrics = super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)  # type: ignore[misc]
        if partition_id == "val" or not batch.keys:
            return batch, metrics
        start = time.perf_counter()
        stored = tq.kv_batch_get(keys=batch.keys, partition_id=partition_id, select_fields=["extra_fields"])
        infos = [getattr(fields, "data", fields).get("reward_extra_info", {}) for fields in stored["extra_fields"]]
        parts = reward_metrics([info for info in infos if "acc" in info])
        return batch, metrics | parts | {"timing_s/reward_parts": time.perf_counter() - start}


class RewardPartsReplayBuffer(_RewardParts, ReplayBuffer):
    """For trainer.v1.trainer_mode=sync, the recipe's mode."""


class RewardPartsReplayBufferAsync(_RewardParts, ReplayBufferAsync):
    """For the two asynchronous trainer modes."""
