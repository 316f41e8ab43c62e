# SPDX-License-Identifier: Apache-2.0
"""The door through which a critic rewards rollouts: the recipe critic_reward loads it as `trainer.v1.sampler.custom_sampler`.

A reward function sees one rollout, and verl goes on if it fails. The replay buffer sees all rollouts of a step, so those of a question can
be compared, and what it raises ends the training. The rows whose verdict is checked by rule keep their reward, and so does validation.
"""

import time
from functools import cached_property
from typing import Any

import ray
from omegaconf import OmegaConf
from transfer_queue import KVBatchMeta
from verl.utils import hf_tokenizer
from verl.utils.fs import copy_to_local

from critic_r1_verl import sampler
from critic_r1_verl.critic_reward import judging
from critic_r1_verl.critic_reward.matches import Response
from critic_r1_verl.verdict import without_tags


class CriticRewardReplayBuffer(sampler.RewardPartsReplayBuffer):
    """For trainer.v1.trainer_mode=sync. ValueError for another one, for settings that are wrong, and for groups filtered by their truth."""

    def __init__(self, *, trainer_mode: str, sampler_kwargs: Any, **kwargs: Any) -> None:
        self._judge = judging.read(OmegaConf.to_container(sampler_kwargs.judge, resolve=True))
        if trainer_mode != "sync" or sampler_kwargs.filter_groups.enable:
            raise ValueError("a critic rewards whole steps: it needs trainer.v1.trainer_mode=sync algorithm.filter_groups.enable=false")
        super().__init__(trainer_mode=trainer_mode, sampler_kwargs=sampler_kwargs, **kwargs)

    @cached_property
    def _critic(self) -> judging.CriticReward:
        """Made when the first rollouts are there, because verl starts its own server later than this object."""
        return judging.load(self._judge, judging.engine(self._judge, _served_by_verl()), self.sampler_kwargs.train_files)

    @cached_property
    def _tokenizer(self) -> Any:
        return hf_tokenizer(copy_to_local(self.sampler_kwargs.model_path))

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict]:
        """Sample as RewardPartsReplayBuffer does, and pay the responses to questions for the critic's verdicts instead of their answers."""
        batch, metrics = super().sample(global_steps=global_steps, partition_id=partition_id, batch_size=batch_size)
        if self._judge.verdicts == "truth":
            return batch, metrics
        # Before the return, so that the validation before the first step finds out wrong settings.
        critic = self._critic
        if partition_id == "val" or not batch.keys:
            return batch, metrics
        start = time.perf_counter()
        names = ("extra_fields", "extra_info", "responses", "reward_model", "rm_scores")
        fields = dict(zip(batch.keys, sampler.read_fields(batch, *names), strict=True))
        # Sorted, so that who meets whom does not depend on which rollout was finished first.
        keys = sorted(key for key, field in fields.items() if not field["extra_info"]["order"])
        if keys:
            wins, told = critic.reward([self._response(fields[key]) for key in keys])
            weight = self.sampler_kwargs.accuracy_weight
            added = [weight * (win - _info(fields[key])["acc"]) for key, win in zip(keys, wins, strict=True)]
            scores = [{"rm_scores": sampler.with_added(fields[key]["rm_scores"], more)} for key, more in zip(keys, added, strict=True)]
            sampler.write_fields(KVBatchMeta(partition_id=partition_id, keys=keys, tags=[{} for _ in keys]), scores)
            metrics |= told
        return batch, metrics | {"timing_s/judging": time.perf_counter() - start}

    def _response(self, field: dict[str, Any]) -> Response:
        info = _info(field)
        return Response(
            question_id=field["extra_info"]["pair_id"],
            text=without_tags(self._tokenizer.decode(field["responses"], skip_special_tokens=True)),
            readable=info["parsed"] == 1,
            right=info["acc"] == 1 if field["reward_model"]["ground_truth"] else None,
        )


def _info(field: dict[str, Any]) -> dict[str, float]:
    """What compute_score says of a rollout. ValueError if verl did not ask it."""
    if "reward_extra_info" not in field["extra_fields"]:
        raise ValueError(judging.NO_IDS)
    return field["extra_fields"]["reward_extra_info"]


def _served_by_verl() -> str:
    """The root of the API of reward.reward_model, which verl tells its reward workers; "" if there is none."""
    worker = ray.get_actor("reward_loop_worker_0")
    address = ray.get(worker.__ray_call__.remote(lambda self: self.reward_router_address))
    return f"http://{address}/v1" if address else ""
