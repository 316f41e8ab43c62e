# SPDX-License-Identifier: Apache-2.0
"""Converts a checkpoint of verl into a Hugging Face folder, which transformers, vLLM and the next training can load."""

import contextlib
import io
from pathlib import Path

from critic_r1_verl import cpu

TRACKER = "latest_checkpointed_iteration.txt"
"""The file in which verl writes the number of the last step whose checkpoint is complete."""


def latest_step(experiment: Path) -> Path:
    """The last complete global_step_N folder of an experiment. ValueError if there is none."""
    tracker = experiment / TRACKER
    if not tracker.is_file():
        raise ValueError(f"{experiment}: no finished checkpoint in this folder; train first, with trainer.save_freq > 0")
    return experiment / f"global_step_{tracker.read_text().strip()}"


def export(checkpoint: Path, out: Path) -> None:
    """Merge the shards of a checkpoint into the folder out, together with its processor.

    checkpoint: a global_step_N folder, or the folder of an experiment, of which the last step is taken. ValueError if it holds no actor.
    """
    step = checkpoint if (checkpoint / "actor").is_dir() else latest_step(checkpoint)
    actor = step / "actor"
    if not (actor / "fsdp_config.json").is_file():
        raise ValueError(f"{actor}: no FSDP checkpoint here (fsdp_config.json is missing); give a global_step_N folder of a finished save")
    from verl.model_merger.base_model_merger import ModelMergerConfig
    from verl.model_merger.fsdp_model_merger import FSDPModelMerger

    config = ModelMergerConfig(
        operation="merge",
        backend="fsdp",
        local_dir=str(actor),
        target_dir=str(out),
        hf_model_config_path=str(actor / "huggingface"),
        trust_remote_code=False,
        use_cpu_initialization=cpu.requested(),
    )
    noise = io.StringIO()
    with contextlib.redirect_stdout(noise):
        merger = FSDPModelMerger(config)
        merger.merge_and_save()
        merger.cleanup()
