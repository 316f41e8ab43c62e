# SPDX-License-Identifier: Apache-2.0
"""What in a plan does not fit or is slow, with what to do about it."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from critic_r1_verl.training.plan.job import Job
from critic_r1_verl.training.plan.memory import GIB

# Published runs took 0.8 times the planned host memory at least, and no less GPU memory than planned (docs/planning.md): what is planned to
# take more than this many times what there is cannot run.
CERTAIN = 1.25
# verl-project/verl issue 7203: with micro-batches of 4,096 tokens, 257 of a step's 290 seconds went to passes over small batches.
SMALL_MICRO_BATCH = 8192

_REMEDIES = {
    "weights": "shard over more GPUs, keep them in host memory by actor.fsdp_config.offload_policy=true (slow), or take a smaller base",
    "gradients": "shard over more GPUs, leave actor.fsdp_config.use_no_sync_for_gradient_accumulation false, or train LoRA",
    "optimiser": "shard over more GPUs, or train LoRA (actor_rollout_ref.model.lora_rank)",
    "gathered layers": "take a smaller base",
    "activations": "lower actor.ppo_max_token_len_per_gpu, or set model.enable_gradient_checkpointing=true",
    "vision tower": "lower critic_r1.max_pixels and build the data again, or lower actor.ppo_max_token_len_per_gpu",
    "logits": "lower actor.ppo_max_token_len_per_gpu (rollout.log_prob_max_token_len_per_gpu follows it)",
    "context": "take a GPU with more memory",
    "weights of vLLM": "raise rollout.gpu_memory_utilization or rollout.tensor_model_parallel_size, or take a smaller base",
    "actor's own": "offload: actor.fsdp_config.param_offload=true and optimizer_offload=true",
    "KV cache": "lower rollout.gpu_memory_utilization",
    "vLLM, which does not sleep": "set rollout.free_cache_engine=true",
    "measured by the run": "lower actor.ppo_max_token_len_per_gpu",
}

_HOST_REMEDIES = {
    "reference": "train LoRA by +recipe/method=lora, whose reference is the base itself, or take a smaller base",
    "pixels of a step": "lower critic_r1.max_pixels and build the data again, or lower data.train_batch_size",
    "processes": "lower actor_rollout_ref.rollout.agent.num_workers, reward.num_workers or data.dataloader_num_workers",
}
_MORE_NODES = "take more nodes or a smaller base, or train LoRA by +recipe/method=lora"


class Lack(NamedTuple):
    """What is not enough or slow, what to do about it, and whether that is so even if the plan is as wrong as it was seen to be."""

    what: str
    remedy: str
    certain: bool = False

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


def gpu(phases: Mapping[str, Mapping[str, float]], gpu_bytes: float) -> Iterator[Lack]:
    """Phases that need more than a GPU has, with the largest part named."""
    for phase, parts in phases.items():
        need = sum(number for number in parts.values() if number > 0)
        if need > gpu_bytes:
            part = max(parts, key=lambda name: parts[name])
            yield Lack(
                f"GPU memory of the {phase}: {need / GIB:.0f} GiB are needed, a GPU has {gpu_bytes / GIB:.0f}; "
                f"the largest part is {part}, {parts[part] / GIB:.0f} GiB",
                _REMEDIES[part],
                need > CERTAIN * gpu_bytes,
            )


def host(parts: Mapping[str, float], there: float, job: Job) -> Iterator[Lack]:
    """Whether a node has the memory, with the largest part named."""
    if (need := sum(parts.values())) > there:
        part = max(parts, key=lambda name: parts[name])
        remedy = _HOST_REMEDIES.get(part, _MORE_NODES)
        if part == "reference" and job.reference_bytes > 2:
            remedy = "set actor_rollout_ref.ref.fsdp_config.model_dtype=bfloat16, in which it computes in any case"
        yield Lack(
            f"host memory: {need / GIB:.0f} GiB are needed, this machine has {there / GIB:.0f}; the largest part is {part}, "
            f"{parts[part] / GIB:.0f} GiB",
            remedy,
            need > CERTAIN * there,
        )


def cache(job: Job, tokens: int) -> Iterator[Lack]:
    """Whether vLLM's share leaves room for the longest sequence."""
    if tokens < job.model_length:
        yield Lack(
            f"KV cache: rollout.gpu_memory_utilization={job.memory_share} leaves room for {max(tokens, 0):,} tokens beside vLLM's weights, "
            f"one sequence may have {job.model_length:,}",
            _REMEDIES["weights of vLLM"],
            tokens <= 0,
        )


def micro_batches(config: Any, job: Job) -> Iterator[Lack]:
    """Micro-batches so small that each one's fixed cost outweighs its arithmetic."""
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    budgets = (actor.ppo_max_token_len_per_gpu, rollout.log_prob_max_token_len_per_gpu)
    for name, allowed, (mean, _) in zip(("update", "log-probabilities"), budgets, (job.update_micro, job.log_prob_micro), strict=True):
        budget = allowed if actor.use_dynamic_bsz and allowed else mean
        if budget < SMALL_MICRO_BATCH:
            yield Lack(
                f"micro-batches of the {name} have {budget:,.0f} tokens: below {SMALL_MICRO_BATCH:,} most of the time goes to gathering "
                "weights and launching kernels",
                "raise actor.ppo_max_token_len_per_gpu, with actor.use_dynamic_bsz=true",
            )


def validation(config: Any, queued: float, a_step: float) -> Iterator[Lack]:
    """A validation whose pixels go through TransferQueue at once, and are more than a step's."""
    if config.data.val_batch_size is None and queued > a_step:
        yield Lack(
            f"a validation puts {queued / 1e9:,.0f} GB of pixels into TransferQueue at once, a step {a_step / 1e9:,.0f}",
            f"set data.val_batch_size={config.data.train_batch_size}, or validate on fewer rows by data.val_max_samples",
        )


def enough(name: str, need: float, there: float, remedy: str, *, unit: str = "GB", size: float = 1e9) -> Iterator[Lack]:
    """Whether this machine has what is needed."""
    if need > there:
        yield Lack(f"{name}: {need / size:,.0f} {unit} are needed, this machine has {there / size:,.0f}", remedy)
