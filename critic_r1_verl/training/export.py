# SPDX-License-Identifier: Apache-2.0
"""A verl checkpoint -> a Hugging Face folder that transformers, vLLM and the next training load."""

import contextlib
import io
from pathlib import Path

from critic_r1_verl import cpu


def latest_step(experiment: Path) -> Path:
    """The last complete global_step_N folder of an experiment. ValueError if there is none."""
    tracker = experiment / "latest_checkpointed_iteration.txt"
    if not tracker.is_file():
        raise ValueError(f"{experiment}: no finished checkpoint in this folder; train first, with trainer.save_freq > 0")
    return experiment / f"global_step_{tracker.read_text().strip()}"


def export(checkpoint: Path, out: Path) -> None:
    """Merge checkpoint (a global_step_N folder, or an experiment folder, whose last step is taken) into the folder out, with its processor.

    Raises ValueError if checkpoint holds no actor.
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
