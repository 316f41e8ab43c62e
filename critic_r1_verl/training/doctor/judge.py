# SPDX-License-Identifier: Apache-2.0
"""The check of a critic that rewards rollouts, where the recipe has one (critic_r1.judge)."""

from collections.abc import Iterator
from typing import Any

from critic_r1_verl import devices
from critic_r1_verl.critic_reward import judging
from critic_r1_verl.engines.coin import CoinEngine
from critic_r1_verl.training.doctor.cluster import cluster_address
from critic_r1_verl.training.doctor.finding import Case, Finding


def check_judge(case: Case) -> Iterator[Finding]:
    """Whether the critic's settings and files can be used, and whether it answers or, where verl serves it, has devices of its own."""
    from omegaconf import OmegaConf

    config = case.config
    if (judge := config.critic_r1.get("judge")) is None:
        return
    try:
        settings = judging.read(OmegaConf.to_container(judge, resolve=True))
        if case.deep:
            judging.load(settings, CoinEngine(0), config.data.train_files)
    except ValueError as error:
        yield Finding("fatal", str(error), "correct critic_r1.judge; recipe/critic_reward.yaml says what each key means")
        return
    if config.trainer.v1.trainer_mode != "sync":
        yield Finding("fatal", "a critic rewards whole steps, and so only in the synchronous mode", "leave trainer.v1.trainer_mode out")
    elif settings.verdicts != "critic":
        yield Finding("ok", f"a control, critic_r1.judge.verdicts={settings.verdicts}, rewards the rollouts")
    elif settings.base_url:
        yield _reached(settings)
    else:
        yield from _served(config)


def _reached(settings: judging.Settings) -> Finding:
    """Whether the server of the critic answers; it is asked nothing that costs money."""
    try:
        critic = judging.engine(settings, "")
    except (ValueError, OSError) as error:
        return Finding("fatal", str(error), "start the critic's server before the training, or correct critic_r1.judge.base_url or .model")
    return Finding("ok", f"the critic {critic.name} rewards the rollouts")


def _served(config: Any) -> Iterator[Finding]:
    served = config.reward.reward_model
    if not (served.enable and served.model_path):
        yield Finding("fatal", judging.NO_CRITIC, "name a critic in one of these ways")
        return
    if not served.enable_resource_pool:
        yield Finding("fatal", judging.NO_IDS, "leave reward.reward_model.enable_resource_pool out, or set critic_r1.judge.base_url")
        return
    wanted = config.trainer.nnodes * config.trainer.n_gpus_per_node + served.nnodes * served.n_gpus_per_node
    if config.trainer.nnodes == 1 and not cluster_address(config) and wanted > (there := devices.gpu_count()) > 0:
        yield Finding(
            "fatal",
            f"policy and critic take {wanted} GPUs, and this machine has {there}",
            f"share them, as by trainer.n_gpus_per_node={there // 2} reward.reward_model.n_gpus_per_node={there - there // 2}",
        )
        return
    yield Finding("ok", f"verl serves the critic {served.model_path}")
