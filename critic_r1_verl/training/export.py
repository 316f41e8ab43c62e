# SPDX-License-Identifier: Apache-2.0
"""Converts a checkpoint of verl into a Hugging Face folder, which transformers, vLLM and the next training can load."""

import contextlib
import io
from pathlib import Path
from typing import Any

from critic_r1_verl import cpu
from critic_r1_verl.training.safe_load import safe_loading

TRACKER = "latest_checkpointed_iteration.txt"
"""The file in which verl writes the number of the last step whose checkpoint is complete."""


def latest_step(experiment: Path) -> Path:
    """The last complete global_step_N folder of an experiment. ValueError if there is none."""
    tracker = experiment / TRACKER
    if not tracker.is_file():
        raise ValueError(f"{experiment}: no finished checkpoint in this folder; train first, with trainer.save_freq > 0")
    return experiment / f"global_step_{tracker.read_text().strip()}"


def step_number(step: Path) -> int:
    """The number of a global_step_N or best_step_N folder. ValueError for another."""
    try:
        return int(step.name.rpartition("_")[2])
    except ValueError as error:
        raise ValueError(f"{step}: not named global_step_N, as verl does; give the folder its own name") from error


def export(checkpoint: Path, out: Path) -> Path:
    """Write the model of a checkpoint in bfloat16, with its processor, to the folder out; returns the checkpoint's own folder.

    checkpoint: a global_step_N folder, or the folder of an experiment, of which the last step is taken. The adapters of a LoRA training are
    merged into the weights, and what was written is compared with base and adapters (lora.py). ValueError for a folder without an actor,
    for files that hold more than weights (safe_load.py), and for adapters that cannot be merged.
    """
    step = checkpoint if (checkpoint / "actor").is_dir() else latest_step(checkpoint)
    actor = step / "actor"
    if not (actor / "fsdp_config.json").is_file():
        raise ValueError(f"{actor}: no FSDP checkpoint here (fsdp_config.json is missing); give a global_step_N folder of a finished save")
    from verl.model_merger.base_model_merger import ModelMergerConfig
    from verl.model_merger.fsdp_model_merger import FSDPModelMerger

    from critic_r1_verl.training import lora

    adapters: lora.Adapters = {}

    class Merger(FSDPModelMerger):
        """verl's merger of shards. verl itself would write the base's weights, and the adapters into a folder beside them."""

        def save_lora_adapter(self, state_dict: dict[str, Any]) -> None:
            """Called with all tensors of the checkpoint, just before they are saved."""
            adapters.update(lora.merge(state_dict, actor))

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
    with contextlib.redirect_stdout(noise), safe_loading(str(actor)):
        merger = Merger(config)
        merger.merge_and_save()
        merger.cleanup()
    lora.check(adapters, _loaded(out), out)
    return step


def _loaded(folder: Path) -> dict[str, Any]:
    """The tensors by name that transformers loads from a folder. ValueError if it would have to invent some of them."""
    from transformers import AutoModelForImageTextToText

    model, report = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto", output_loading_info=True)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{folder}: {missing[0]} and {len(missing) - 1} more were not written; export again")
    return model.state_dict()
