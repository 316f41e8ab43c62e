# SPDX-License-Identifier: Apache-2.0
"""Seconds of a training step by phase, and hours of a run.

Each phase is its arithmetic at a share of the GPU's peak, and a cost for each micro-batch. The constants that were calibrated say on what,
the others are assumptions; docs/planning.md compares the result with published runs.
"""

import math
from typing import Any

from critic_r1_verl.training.plan import memory
from critic_r1_verl.training.plan.gpus import Gpu
from critic_r1_verl.training.plan.job import Job, Lengths
from critic_r1_verl.training.plan.sizes import Sizes

# Calibrated on two published runs of Qwen2.5-VL-7B on 8 H100 (EasyR1, assets/baselines.md at 2dfd495, micro-batches of 4 and of 10
# rollouts; the update's seconds follow from the MFU stated there): the share of the peak that the arithmetic of a large micro-batch
# reaches, and the seconds that each layer costs a micro-batch whatever its size (gathering, launching), over forward and backward.
EFFICIENCY, LAYER_SECONDS = 0.375, 0.0069
# A forward pass alone is one of the four passes (forward, forward again, and two of backward) that LAYER_SECONDS is for.
FORWARD_SHARE = 0.25
# Assumption: the share of the peak that a forward pass without gradients reaches, in the actor and in vLLM.
FORWARD_EFFICIENCY = 0.55
# Assumptions. Share of the memory bandwidth that decoding reaches, and seconds of one decoding step beside reading weights and cache.
BANDWIDTH_SHARE, DECODE_SECONDS = 0.7, 0.008
# Measured on one core: the image processor, for a million pixels. verl runs it about four times a rollout.
PROCESSOR_SECONDS, PROCESSOR_PASSES = 0.06, 4
# Assumptions, bytes a second: host to GPU, TransferQueue in all, a disk; and seconds of a step for reward, metrics and Ray.
HOST_LINK, QUEUE, DISK, FIXED_SECONDS = 20e9, 8e9, 1e9, 10.0
# A step's rollouts are put into TransferQueue once, and read for the old and the reference's log-probabilities and for the update.
QUEUE_PASSES = 4
# The range that is stated around an estimate: the published runs lie within it.
FASTEST, SLOWEST = 0.75, 1.25


def step_seconds(job: Job, sizes: Sizes, lengths: Lengths, gpu: Gpu) -> dict[str, float]:
    """Seconds of a step by phase, in verl's names where it has one (timing_s/gen, ...)."""
    tokens, pixels = job.rollouts * lengths.tokens, job.rollouts * lengths.pixels
    images = job.rollouts * lengths.images
    both_ways = sizes.flops(tokens, job.rollouts, pixels / sizes.patch_pixels, images)
    peak = job.gpus * gpu.flops * EFFICIENCY
    # Of six operations a weight and token, two are forward's; adapters leave out two for the gradients of the base, checkpointing adds two.
    share = (2 + (2 if job.adapters else 4) + 2 * job.checkpointing) / 6
    layers = (sizes.layers + sizes.vision_layers) * LAYER_SECONDS
    per_gpu = tokens / job.gpus
    update_batches = job.updates * job.epochs * math.ceil(per_gpu / job.updates / job.update_micro[0])
    log_prob_batches = math.ceil(per_gpu / job.log_prob_micro[0])
    log_prob = both_ways / 3 / (job.gpus * gpu.flops * FORWARD_EFFICIENCY) + log_prob_batches * layers * FORWARD_SHARE
    return {
        "gen": generation_seconds(job, sizes, lengths, gpu, job.rollouts),
        "log_prob": job.log_prob_passes * log_prob,
        "update_actor": job.epochs * both_ways * share / peak + update_batches * layers,
        "update_weights": _moving_seconds(job, sizes),
        "data": QUEUE_PASSES * memory.queue_bytes(job, lengths) / QUEUE,
        "fixed": FIXED_SECONDS,
    }


def generation_seconds(job: Job, sizes: Sizes, lengths: Lengths, gpu: Gpu, rollouts: float) -> float:
    """Seconds in which vLLM answers so many rollouts: image processor, prompts, decoding steps until the longest answer ends."""
    parallel = job.tensor_parallel
    share = rollouts * parallel / job.gpus
    cached = memory.kv_tokens(job, sizes, gpu.memory * memory.GIB)
    together = max(1.0, min(job.sequences, share, cached / lengths.tokens))
    weights = 2 * (sizes.parameters - sizes.vision_parameters)
    bandwidth, arithmetic = parallel * gpu.bandwidth * BANDWIDTH_SHARE, parallel * gpu.flops * FORWARD_EFFICIENCY
    decoding_steps = share * lengths.response / together + max(0.0, lengths.response_most - lengths.response)
    context = lengths.prompt + lengths.response / 2
    per_token = sizes.flops_token / 3 / arithmetic + context * sizes.kv_bytes / bandwidth
    prompts = (
        sizes.flops(share * lengths.prompt, share, share * lengths.pixels / sizes.patch_pixels, share * lengths.images) / 3 / arithmetic
    )
    processor = rollouts * lengths.pixels / 1e6 * PROCESSOR_SECONDS * PROCESSOR_PASSES / max(job.agents, 1)
    return prompts + decoding_steps * (weights / bandwidth + DECODE_SECONDS) + share * lengths.response * per_token + processor


def run_hours(config: Any, steps: int, seconds: float, test_seconds: float, save_seconds: float) -> float:
    """Hours of so many steps of so many seconds, with the validations and checkpoints that verl makes on the way."""
    tests = steps // config.trainer.test_freq if config.trainer.test_freq > 0 else 0
    tests += bool(config.trainer.val_before_train)
    saves = steps / config.trainer.save_freq if config.trainer.save_freq > 0 else 0
    return (steps * seconds + tests * test_seconds + saves * save_seconds) / 3600


def save_seconds(config: Any, sizes: Sizes) -> float:
    """Seconds in which a checkpoint is written; each node writes its part."""
    return memory.checkpoint_bytes(config, sizes) / DISK / config.trainer.nnodes


def mfu(job: Job, sizes: Sizes, lengths: Lengths, gpu: Gpu, update_seconds: float) -> float:
    """perf/mfu/actor as verl counts it: without the vision tower and without what checkpointing computes again."""
    tokens = job.rollouts * lengths.tokens
    return job.epochs * sizes.flops(tokens, job.rollouts, 0, 0) / (job.gpus * gpu.flops * update_seconds)


def _moving_seconds(job: Job, sizes: Sizes) -> float:
    """Weights to vLLM once, and what is offloaded to the GPU and back: weights for each phase, the optimiser for the update."""
    moved = 2 * sizes.parameters / job.tensor_parallel + sizes.parameters * 4 / job.shards
    if job.offload_parameters:
        moved += 4 * sizes.parameters * job.parameter_bytes / job.shards
    if job.offload_optimizer:
        moved += 2 * 2 * job.trained * job.parameter_bytes / job.shards
    if job.reference and not job.adapters:
        # The reference lives in host memory and crosses over for each micro-batch.
        moved += sizes.parameters * job.reference_bytes / job.shards
    return moved / HOST_LINK
