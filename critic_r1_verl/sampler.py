# SPDX-License-Identifier: Apache-2.0
"""What the rollouts of a batch say together. verl loads this module through `trainer.v1.sampler.custom_sampler`.

verl computes the reward of each rollout by itself. Its replay buffer is the first place that sees a whole batch, and may change it. So
these classes compare the two orders of a pair (pairing.py), pay for what they say together (critic_r1.paid), let them share a GRPO group
(critic_r1.group), and log the parts of the reward, which verl 0.9.1 logs in validation only.
"""

import os
import time
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from critic_r1_verl import pairing
from critic_r1_verl.pairing import Info, Rollout

# verl polls its queue every 2 s. That does not matter for steps of minutes, but it is half of a step on a CPU.
POLL_SECONDS = float(os.environ.get("CRITIC_R1_POLL_SECONDS", "0.2"))


class _RewardParts:
    def __init__(self, *, trainer_mode: str, sampler_kwargs: Any, **kwargs: Any) -> None:
        whole_steps = trainer_mode == "sync" and not sampler_kwargs.filter_groups.enable
        self._needs_both_orders = pairing.check(sampler_kwargs.paid, sampler_kwargs.group, whole_steps=whole_steps)
        settings = dict(trainer_mode=trainer_mode, sampler_kwargs=sampler_kwargs, poll_interval=POLL_SECONDS, **_filtering(sampler_kwargs))
        super().__init__(**settings, **kwargs)

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        """Sample as verl does, compare the orders of pairs, and add the parts of the reward to the metrics."""
        batch, metrics = super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)  # type: ignore[misc]
        if not batch.keys:
            return batch, metrics
        start = time.perf_counter()
        fields = read_fields(batch, "extra_fields", "extra_info", "data_source", "uid")
        rollouts = [_rollout(*each) for each in zip(batch.keys, batch.tags, fields, strict=True)]
        if not all("acc" in rollout.info for rollout in rollouts):
            # A reward model computes the scores later.
            return batch, metrics
        infos = pairing.compared(rollouts)
        if partition_id == "val":
            write_fields(batch, [_told(*each) for each in zip(fields, rollouts, infos, strict=True)])
            return batch, metrics
        settings = self.sampler_kwargs  # type: ignore[attr-defined]
        if self._needs_both_orders:
            pairing.check_orders(rollouts, infos)
        if settings.paid != "acc":
            added = pairing.added_scores(rollouts, infos, settings.paid, settings.accuracy_weight)
            scores = [field["rm_scores"] for field in read_fields(batch, "rm_scores")]
            write_fields(batch, [{"rm_scores": with_added(*each)} for each in zip(scores, added, strict=True)])
        if settings.group == "pair":
            # verl takes this field, not the key, for the group of a rollout.
            uids = [rollout.record_id if rollout.order else field["uid"] for field, rollout in zip(fields, rollouts, strict=True)]
            write_fields(batch, [{"uid": uid} for uid in uids])
        return batch, metrics | pairing.metrics(rollouts, infos) | {"timing_s/reward_parts": time.perf_counter() - start}


class RewardPartsReplayBuffer(_RewardParts, ReplayBuffer):
    """For trainer.v1.trainer_mode=sync, the recipe's mode."""


class RewardPartsReplayBufferAsync(_RewardParts, ReplayBufferAsync):
    """For the two asynchronous trainer modes."""


def _filtering(settings: Any) -> dict[str, Any]:
    """What verl gives its own replay buffer, and no other, where algorithm.filter_groups is on."""
    groups = settings.filter_groups
    if not groups.enable:
        return {}
    return {
        "filter_groups_metric": str(groups.metric),
        "max_inflight_gen_batches": groups.max_inflight_gen_batches,
        "train_batch_size": settings.train_batch_size,
        "gen_batch_size": 1,
    }


def read_fields(batch: KVBatchMeta, *names: str) -> list[dict[str, Any]]:
    """These fields of each rollout; those of different lengths as tensors."""
    stored = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(names))
    columns = [list(stored[name]) if name in ("responses", "rm_scores") else stored.get(name).tolist() for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def write_fields(batch: KVBatchMeta, fields: list[dict[str, Any]]) -> None:
    """Put these fields of each rollout in place of what the queue holds."""
    tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=list_of_dict_to_tensordict(fields))


def _rollout(key: str, tag: dict[str, Any], field: dict[str, Any]) -> Rollout:
    """key: {uid}_{session}_{index}, as verl names a rollout."""
    extra = field["extra_info"] or {}
    return Rollout(
        record_id=extra.get("pair_id", ""),
        order=extra.get("order", ""),
        session=key.split("_")[1],
        source=field["data_source"],
        tokens=tag["response_len"],
        info=field["extra_fields"].get("reward_extra_info", {}),
    )


def _told(field: dict[str, Any], rollout: Rollout, info: Info) -> dict[str, Any]:
    """What verl's validation averages by source (numbers) and writes beside the text (all), instead of what the reward said alone."""
    told = {**info, "response_tokens": float(rollout.tokens), "pair_id": rollout.record_id, "order": rollout.order}
    return {"extra_fields": field["extra_fields"] | {"reward_extra_info": told}}


def with_added(scores: Any, added: float) -> Any:
    """scores[L], of which verl sets the last one, that of the whole response."""
    changed = scores.clone()
    changed[-1] += added
    return changed
