# SPDX-License-Identifier: Apache-2.0
"""Memory of a run by part: GPU in each phase of a step, host, TransferQueue, disk; and the CPUs that verl reserves from Ray.

All functions are pure: a composed configuration and Sizes in, bytes or counts out. Bytes are of one GPU, or of one node where the
function's name says host. Where a number is an assumption, its constant says so.
"""

import math
from typing import Any

from critic_r1_verl.training.plan.job import BYTES, Job, Lengths, Weights, adapter_parameters, gpus, read
from critic_r1_verl.training.plan.sizes import Sizes

GIB = 2**30
# Assumptions: CUDA's context, NCCL's buffers and cuBLAS' workspaces of a process, and what a sleeping vLLM keeps beside its context.
CONTEXT, SLEEPING_VLLM = 2 * GIB, 1.5 * GIB
# Assumption: what vLLM needs beside weights and cache, for a forward pass and its CUDA graphs.
VLLM_WORKSPACE = 3 * GIB
# Host memory of a process. Light ones were measured with the CPU backend (8 storage units: 5 GB); those with a GPU are assumed.
LIGHT_PROCESS, GPU_PROCESS = 0.6 * GIB, 2 * GIB
# fp32, three channels, and each frame twice: Qwen's processors stack an image on itself (temporal_patch_size 2).
PIXEL_BYTES = 4 * 3 * 2
# ResourcePoolManager.max_colocate_count of verl 0.9.1 (single_controller/ray/base.py): CPUs of each GPU's bundle.
CPUS_A_GPU = 3


def gpu_phases(job: Job, sizes: Sizes, lengths: Lengths, gpu_bytes: float) -> dict[str, dict[str, float]]:
    """Bytes on a GPU in each phase of a step, by part."""
    awake = {} if job.sleeps else {"vLLM, which does not sleep": job.memory_share * gpu_bytes}
    return {
        "update": gpu_update(job, sizes, lengths) | awake,
        "log-probabilities": gpu_log_prob(job, sizes, lengths) | awake,
        "rollout": gpu_rollout(job, sizes, gpu_bytes),
    }


def gpu_update(job: Job, sizes: Sizes, lengths: Lengths) -> dict[str, float]:
    """Bytes on a GPU while the actor is updated, by part. The sum is a little above the peak: not all are at their most together."""
    shards, tokens = math.inf if job.streamed else job.shards, job.update_micro[1]
    compute, layer = job.compute_bytes, sizes.layer_parameters
    largest = max(layer, sizes.head_parameters)
    whole_gradients = compute + 4 if not job.adapters else 0
    patches = tokens / max(lengths.tokens, 1) * lengths.pixels / sizes.patch_pixels
    language, vision = _layer_bytes(sizes)
    if job.checkpointing:
        # The inputs of all layers, and one layer at a time computed again with its gradients.
        kept = tokens * sizes.layers * sizes.hidden * compute
        activations = kept + tokens * (language + 6 * sizes.intermediate + 2 * sizes.hidden) * compute / 2
        seen = patches * (sizes.vision_layers * sizes.vision_hidden * compute + vision)
    else:
        activations, seen = tokens * sizes.layers * language * compute / 2, patches * sizes.vision_layers * vision
    return {
        "weights": sizes.parameters * job.parameter_bytes / shards,
        "gradients": job.trained * job.parameter_bytes / shards + (4 * job.trained if job.keeps_full_gradients else 0),
        "optimiser": 2 * job.trained * job.parameter_bytes / shards,
        "gathered layers": 2 * layer * compute + largest * (compute + whole_gradients),
        "activations": activations,
        "vision tower": seen,
        "logits": tokens * _logit_bytes(job, sizes),
        "context": CONTEXT + SLEEPING_VLLM,
    }


def gpu_log_prob(job: Job, sizes: Sizes, lengths: Lengths) -> dict[str, float]:
    """Bytes on a GPU while log-probabilities are computed, without gradients."""
    tokens, compute = job.log_prob_micro[1], job.compute_bytes
    patches = tokens / max(lengths.tokens, 1) * lengths.pixels / sizes.patch_pixels
    resident = 0 if job.offload_optimizer else 2 * job.trained * job.parameter_bytes / job.shards
    return {
        "weights": 0 if job.streamed else sizes.parameters * job.parameter_bytes / job.shards,
        "optimiser": resident,
        "gathered layers": (2 * sizes.layer_parameters + max(sizes.layer_parameters, sizes.head_parameters)) * compute,
        "activations": tokens * (6 * sizes.intermediate + 8 * sizes.hidden) * compute / 2,
        "vision tower": patches * (6 * sizes.vision_intermediate + 8 * sizes.vision_hidden),
        # verl takes the entropy here; compiled, it makes nothing of the logits' size, else a softmax and a product in fp32.
        "logits": 0 if job.fused else tokens * sizes.vocabulary * (compute + (0 if job.compiled else 8)),
        "context": CONTEXT + SLEEPING_VLLM,
    }


def gpu_rollout(job: Job, sizes: Sizes, gpu_bytes: float) -> dict[str, float]:
    """Bytes on a GPU while vLLM answers; vLLM takes its whole share, and what its weights and workspace leave is the KV cache."""
    share, weights = job.memory_share * gpu_bytes, 2 * sizes.parameters / job.tensor_parallel
    resident = 0.0
    if not job.offload_parameters:
        resident += sizes.parameters * job.parameter_bytes / job.shards
    if not job.offload_optimizer:
        resident += 2 * job.trained * job.parameter_bytes / job.shards
    return {
        "weights of vLLM": weights,
        "workspace of vLLM": VLLM_WORKSPACE,
        "KV cache": share - weights - VLLM_WORKSPACE,
        "actor's own": resident,
        "context": CONTEXT,
    }


def kv_tokens(job: Job, sizes: Sizes, gpu_bytes: float) -> int:
    """Tokens that the KV cache of one engine (tensor_parallel GPUs) holds; 0 or less where the weights already fill vLLM's share."""
    cache = gpu_rollout(job, sizes, gpu_bytes)["KV cache"] * job.tensor_parallel
    return math.floor(cache / sizes.kv_bytes)


def host_bytes(config: Any, sizes: Sizes, lengths: Lengths) -> dict[str, float]:
    """Bytes of one node's memory, by part."""
    job = read(config, sizes, lengths)
    nodes, num_gpus = job.nodes, job.gpus
    light = _light_processes(config)
    on_cpu = config.trainer.device == "cpu"
    parts = {
        "weights, gradients, optimiser": (sizes.parameters + 3 * job.trained) * job.parameter_bytes if on_cpu else 0,
        "offloaded weights": sizes.parameters * job.parameter_bytes if job.offload_parameters else 0,
        "offloaded optimiser": 2 * job.trained * job.parameter_bytes if job.offload_optimizer else 0,
        # verl keeps a forward-only model in host memory, whatever ref.fsdp_config.param_offload says (CPUOffloadPolicy, pinned).
        "reference": sizes.parameters * job.reference_bytes if job.reference and not job.adapters else 0,
        # With adapters vLLM sleeps at level 1, which moves its weights to the host; else they are discarded.
        "weights of vLLM": 2 * sizes.parameters / job.tensor_parallel * num_gpus if job.adapters else 0,
        "pixels of a step": queue_bytes(job, lengths),
        "processes": light * LIGHT_PROCESS + 2 * num_gpus * GPU_PROCESS,
    }
    return {name: number / nodes for name, number in parts.items()}


def queue_bytes(job: Job, lengths: Lengths) -> float:
    """Bytes that TransferQueue takes in during a step: each rollout carries its images' pixels as fp32, and some ten numbers a token."""
    return job.rollouts * (lengths.pixels * PIXEL_BYTES + lengths.tokens * 10 * 8)


def checkpoint_bytes(config: Any, sizes: Weights) -> float:
    """Bytes of one checkpoint of verl's FSDP engine: what actor.checkpoint.save_contents names, in the type the model is kept in."""
    actor = config.actor_rollout_ref.actor
    width, contents = BYTES[actor.fsdp_config.model_dtype], actor.checkpoint.save_contents
    trained = adapter_parameters(config, sizes) if config.actor_rollout_ref.model.lora_rank else sizes.parameters
    per_content = {
        "model": _shard_bytes(config, sizes),
        "optimizer": 2 * trained * width,
        "hf_model": 2 * sizes.parameters,
    }
    return sum(per_content.get(content, 0) for content in contents)


def disk_bytes(config: Any, sizes: Weights, steps: int) -> float:
    """Bytes of all checkpoints that lie on the disk at once during a run of so many steps: those kept, the one being written, and the best.

    The best (training/checkpoints.py) has hard links to the weights alone, which count once verl has removed the original.
    """
    every, kept = config.trainer.save_freq, config.trainer.max_actor_ckpt_to_keep
    if every <= 0 or not config.actor_rollout_ref.actor.checkpoint.save_contents:
        return 0
    # verl also saves after the last step.
    saved = steps // every + (steps % every > 0)
    # With one to keep, verl removes it only after the next is complete; with more, it makes room first.
    at_once = saved if not kept else min(saved, max(kept, 2))
    best = _shard_bytes(config, sizes) if saved > at_once and config.trainer.test_freq > 0 else 0
    return checkpoint_bytes(config, sizes) * at_once + best


def _shard_bytes(config: Any, sizes: Weights) -> float:
    """Bytes of the weights in a checkpoint, adapters included."""
    return (sizes.parameters + adapter_parameters(config, sizes)) * BYTES[config.actor_rollout_ref.actor.fsdp_config.model_dtype]


def ray_cpus(config: Any) -> int:
    """CPUs that verl 0.9.1 reserves from Ray for the whole run; with fewer it waits for ever.

    Three for each GPU's bundle, one for each storage unit and for the controller of TransferQueue, and the processes of the reward manager
    "remote". Agent loops, reward workers and vLLM's servers reserve none.
    """
    cpus = CPUS_A_GPU * gpus(config) + 1
    if config.transfer_queue.backend.storage_backend == "SimpleStorage":
        cpus += config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    rollout = config.actor_rollout_ref.rollout
    if config.trainer.v1.trainer_mode == "separate_async":
        cpus += CPUS_A_GPU * rollout.nnodes * rollout.n_gpus_per_node
    if config.reward.reward_model.enable_resource_pool:
        cpus += CPUS_A_GPU * config.reward.reward_model.nnodes * config.reward.reward_model.n_gpus_per_node
    if config.reward.reward_manager.name == "remote":
        cpus += config.reward.num_workers**2
    return cpus


def _light_processes(config: Any) -> int:
    """Ray's processes without a GPU: task runner, controller, storage units, agent loops, reward workers, loaders of data."""
    units = config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    return 2 + units + config.actor_rollout_ref.rollout.agent.num_workers + config.reward.num_workers + config.data.dataloader_num_workers


def _logit_bytes(job: Job, sizes: Sizes) -> float:
    """Bytes of one token's logits and what is made of them.

    flash-attn's cross entropy needs them and their gradient; without it, verl's row-wise log-softmax keeps fp32 besides. Fused kernels
    never hold them at once.
    """
    if job.fused:
        return 0
    return sizes.vocabulary * (2 * job.compute_bytes if job.flash else 3 * job.compute_bytes + 8)


def _layer_bytes(sizes: Sizes) -> tuple[float, float]:
    """Bytes in half precision that one layer keeps of a token, and one vision layer of a patch, for its backward pass.

    The first was counted with torch's MemTracker on fake tensors of Qwen2.5-VL 3B and 7B and Qwen3-VL 4B and 8B, and is within 1.5 % of
    it; the second is the same formula for a vision layer.
    """
    heads = sizes.query + 2 * sizes.key_value
    language = 16 * sizes.hidden + 8 * sizes.intermediate + 4 * heads * (2 if sizes.head_norms else 1)
    vision = 16 * sizes.vision_hidden + 8 * sizes.vision_intermediate + 4 * 3 * sizes.vision_hidden
    return language, vision
