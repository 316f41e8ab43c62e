# SPDX-License-Identifier: Apache-2.0
"""What of verl's composed configuration decides on memory and time, and the lengths of a step's texts and images."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from critic_r1_verl import mixture
from critic_r1_verl.training.plan.sizes import Sizes

BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2, None: 4}

# Assumed until they are measured: the mean response as a share of data.max_response_length, its low and high, and the share of
# data.max_prompt_length that a prompt takes.
RESPONSE_SHARE, RESPONSE_LOW, RESPONSE_HIGH, PROMPT_SHARE = 0.25, 0.125, 0.5, 0.5
SAMPLED_ROWS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Means of one rollout, except the *_most: a prompt's and a response's tokens, its images and their pixels in all.

    sources: one sentence for each number that was measured or assumed.
    """

    prompt: float
    prompt_most: float
    response: float
    response_most: float
    images: float
    pixels: float
    rows: int | None
    sources: tuple[str, ...] = ()

    @property
    def tokens(self) -> float:
        return self.prompt + self.response

    @property
    def tokens_most(self) -> float:
        return self.prompt_most + self.response_most


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Settings of a composed recipe. Sizes of batches are in rollouts; *_micro is what one GPU has at a time, in tokens (mean, most).

    sleeps: vLLM gives its memory back while the actor works (rollout.free_cache_engine).
    streamed: weights, gradients and optimiser stay in host memory during the update too (actor.fsdp_config.offload_policy).
    """

    gpus: int
    nodes: int
    shards: int
    rollouts: int
    updates: int
    epochs: int
    parameter_bytes: int
    compute_bytes: int
    reference_bytes: int
    trained: int
    adapters: bool
    reference: bool
    offload_parameters: bool
    offload_optimizer: bool
    streamed: bool
    keeps_full_gradients: bool
    checkpointing: bool
    flash: bool
    fused: bool
    compiled: bool
    update_micro: tuple[float, float]
    log_prob_micro: tuple[float, float]
    log_prob_passes: int
    tensor_parallel: int
    memory_share: float
    sleeps: bool
    sequences: int
    model_length: int
    agents: int


def gpus(config: Any) -> int:
    """The number of GPUs that train."""
    return config.trainer.nnodes * config.trainer.n_gpus_per_node


class Weights(Protocol):
    """Of Sizes, what the size of a checkpoint depends on; the doctor knows no more of a model that is not here."""

    @property
    def parameters(self) -> int: ...

    @property
    def linears(self) -> Mapping[str, int]: ...


def adapter_parameters(config: Any, sizes: Weights) -> int:
    """Parameters of the LoRA adapters; 0 without LoRA."""
    model = config.actor_rollout_ref.model
    targets, excluded = model.target_modules, model.exclude_modules

    def matches(pattern: Any, name: str, leaf: str) -> bool:
        """As peft reads it: a regular expression for the whole name, or a list of last parts."""
        return bool(re.fullmatch(pattern, name)) if isinstance(pattern, str) else leaf in (pattern or ())

    def adapted(kind: str) -> bool:
        part, leaf = kind.split(".")
        name = f"model.visual.blocks.0.{leaf}" if part == "vision" else f"model.language_model.layers.0.{leaf}"
        return (targets == "all-linear" or matches(targets, name, leaf)) and not matches(excluded, name, leaf)

    return model.lora_rank * sum(width for kind, width in sizes.linears.items() if adapted(kind))


def read(config: Any, sizes: Sizes, lengths: Lengths) -> Job:
    """The Job of a composed configuration. Micro-batches follow verl: a budget of tokens, or a number of rollouts."""
    actor, ref, rollout, model = (config.actor_rollout_ref[name] for name in ("actor", "ref", "rollout", "model"))
    fsdp, num_gpus = actor.fsdp_config, gpus(config)
    rollouts, mini = config.data.train_batch_size * rollout.n, actor.ppo_mini_batch_size * rollout.n
    adapters = model.lora_rank > 0 or model.lora_adapter_path is not None
    sequence_parallel = actor.ulysses_sequence_parallel_size
    attention = (model.override_config or {}).get("attn_implementation", "flash_attention_2")
    reference = bool(actor.use_kl_loss or config.algorithm.use_kl_in_reward)
    bypass = bool((config.algorithm.get("rollout_correction") or {}).get("bypass_mode"))
    ranks = num_gpus / sequence_parallel

    def micro(budget: int | None, number: int | None, in_all: int) -> tuple[float, float]:
        """Mean and most tokens of a micro-batch; dynamic ones are filled up to the budget and hold one rollout at least."""
        share = in_all / ranks
        if actor.use_dynamic_bsz and budget:
            count = math.ceil(share * lengths.tokens / (budget * sequence_parallel))
            return share * lengths.tokens / count, max(min(budget * sequence_parallel, share * lengths.tokens_most), lengths.tokens_most)
        number = min(number or 1, math.ceil(share))
        longest = number * lengths.tokens_most
        return (number * lengths.tokens if model.use_remove_padding else longest), longest

    split = 1 / sequence_parallel
    update = micro(actor.ppo_max_token_len_per_gpu, actor.ppo_micro_batch_size_per_gpu, mini)
    log_prob = micro(rollout.log_prob_max_token_len_per_gpu, rollout.log_prob_micro_batch_size_per_gpu, rollouts)
    return Job(
        gpus=num_gpus,
        nodes=config.trainer.nnodes,
        shards=fsdp.fsdp_size if 0 < fsdp.fsdp_size < num_gpus else num_gpus,
        rollouts=rollouts,
        updates=config.data.train_batch_size // actor.ppo_mini_batch_size,
        epochs=actor.ppo_epochs,
        parameter_bytes=BYTES[fsdp.model_dtype],
        # verl's FSDP engine reads nothing else for it.
        compute_bytes=BYTES[(fsdp.get("mixed_precision") or {}).get("param_dtype", "bf16")],
        reference_bytes=BYTES[ref.fsdp_config.model_dtype],
        trained=adapter_parameters(config, sizes) if adapters else sizes.parameters,
        adapters=adapters,
        reference=reference,
        offload_parameters=bool(fsdp.param_offload or fsdp.offload_policy),
        offload_optimizer=bool(fsdp.optimizer_offload or fsdp.offload_policy),
        streamed=bool(fsdp.offload_policy),
        keeps_full_gradients=bool(fsdp.use_no_sync_for_gradient_accumulation),
        checkpointing=bool(model.enable_gradient_checkpointing),
        flash=str(attention).startswith("flash"),
        fused=bool(model.use_fused_kernels),
        compiled=bool(fsdp.use_torch_compile),
        update_micro=(update[0] * split, update[1] * split),
        log_prob_micro=(log_prob[0] * split, log_prob[1] * split),
        log_prob_passes=int(not bypass) + int(reference),
        tensor_parallel=rollout.tensor_model_parallel_size,
        memory_share=rollout.gpu_memory_utilization,
        sleeps=bool(rollout.free_cache_engine),
        sequences=rollout.max_num_seqs,
        model_length=rollout.max_model_len or config.data.max_prompt_length + config.data.max_response_length,
        agents=rollout.agent.num_workers,
    )


def lengths(config: Any, sizes: Sizes) -> Lengths:
    """Lengths from the data where they are there, else assumed from the recipe's limits, with a sentence that says so."""
    files = config.data.train_files
    file = Path(files if isinstance(files, str) else files[0])
    most_prompt, most_response = config.data.max_prompt_length, config.data.max_response_length
    sources, rows, images, pixels = [], None, 1.0, 0.0
    prompt, prompt_most = PROMPT_SHARE * most_prompt, float(most_prompt)
    if file.is_file():
        rows = num_rows(config)
        images, pixels = _images(file)
        sources.append(f"{rows:,} rows, {images:.1f} images and {pixels / 1e6:.2f} million pixels each: from {file}")
    else:
        pixels = math.sqrt(config.critic_r1.min_pixels * config.critic_r1.max_pixels)
        sources.append(f"{file} is not there: one image of {pixels / 1e6:.2f} million pixels each is assumed")
    if measured := _measured_prompts(file.parent):
        prompt, prompt_most = measured
        sources.append(f"a prompt has {prompt:.0f} tokens (95 %: {prompt_most:.0f}): measured by the data build")
    else:
        visual = pixels / sizes.patch_pixels / sizes.patches_per_token
        prompt = min(max(prompt, visual), prompt_most)
        sources.append(f"a prompt has {prompt:.0f} tokens: assumed")
    response = RESPONSE_SHARE * most_response
    sources.append(f"a response has {response:.0f} tokens, a quarter of the most that is allowed: assumed")
    return Lengths(
        prompt=prompt,
        prompt_most=prompt_most,
        response=response,
        response_most=most_response,
        images=images,
        pixels=pixels,
        rows=rows,
        sources=tuple(sources),
    )


def steps(config: Any, rows: int | None) -> int | None:
    """Training steps as verl counts them; None if neither the rows nor trainer.total_training_steps are known."""
    if config.trainer.total_training_steps is not None:
        return config.trainer.total_training_steps
    return None if rows is None else rows // config.data.train_batch_size * config.trainer.total_epochs


def num_rows(config: Any) -> int | None:
    """Rows of the data that the recipe trains on in an epoch; None where none of the files is here. ValueError as for mixture.choose."""
    files = _here(config.data.train_files)
    return len(mixture.choose(list(mixture.facts_of(files)), mixture.read(config.critic_r1.rows))) if files else None


def num_val_rows(config: Any) -> int:
    """Rows that a validation has; 0 where none of the files is here. ValueError for a file that cannot be read."""
    return len(mixture.validation(list(mixture.facts_of(_here(config.data.val_files))), config.critic_r1.val_orders))


def _here(files: Any) -> list[Path]:
    return [Path(file) for file in ([files] if isinstance(files, str) else files or ()) if Path(file).is_file()]


def _images(file: Path) -> tuple[float, float]:
    """Mean number of images and mean pixels of a row, over its first rows; the files are opened for their sizes only."""
    import pyarrow.parquet as pq
    from PIL import Image

    batch = next(pq.ParquetFile(file).iter_batches(SAMPLED_ROWS, columns=["images"]), None)
    rows = batch.to_pydict()["images"] if batch else []
    pixels = 0
    for path in (path for row in rows for path in row or ()):
        with Image.open(file.parent / path) as image:
            pixels += image.width * image.height
    return sum(len(row or ()) for row in rows) / max(len(rows), 1), pixels / max(len(rows), 1)


def _measured_prompts(folder: Path) -> tuple[float, float] | None:
    from critic_r1_verl import data_folder

    if not (folder / data_folder.MANIFEST).is_file():
        return None
    found = data_folder.read_manifest(folder).get("lengths") or {}
    return (float(found["median"]), float(found["p95"])) if found.get("median") is not None else None
