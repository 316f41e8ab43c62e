# SPDX-License-Identifier: Apache-2.0
"""The name of a run, and the checkpoint that it would resume: checked before the run starts, and claimed when it does."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from critic_r1_verl.files import write_json
from critic_r1_verl.training import experiment
from critic_r1_verl.training.doctor.finding import Case, Finding
from critic_r1_verl.training.export import TRACKER, latest_step

CLAIM = "critic_r1_run.json"
"""The file in a run's folder that says which run the checkpoints there belong to."""

_SHARD = re.compile(r"model_world_size_(\d+)_rank_\d+\.pt")
_OTHER_FOLDER = "leave trainer.experiment_name and trainer.default_local_dir to the recipe, or name a new folder"


def check_name(case: Case) -> Iterator[Finding]:
    """Whether the run would resume its own checkpoint and no other's, and whether its name follows the base and the settings."""
    config = case.config
    folder, name = Path(config.trainer.default_local_dir), str(config.trainer.experiment_name)
    if problem := _foreign_checkpoint(config):
        yield Finding("fatal", problem, _OTHER_FOLDER)
        return
    base = experiment.base_name(str(config.actor_rollout_ref.model.path))
    if base not in name or experiment.digest(config) not in name:
        yield Finding(
            "warning",
            f"trainer.experiment_name={name} does not follow the base and the settings: a changed run would find this one's checkpoints",
            "leave trainer.experiment_name to the recipe",
        )
    step = _resumed_step(config)
    if step is not None and (problem := _other_world_size(config, step)):
        gpus = "the same number of GPUs, by trainer.nnodes and trainer.n_gpus_per_node, or start anew by trainer.resume_mode=disable"
        yield Finding("fatal", problem, f"resume on {gpus} in another trainer.default_local_dir")
    elif step is not None:
        total = config.trainer.total_training_steps
        yield Finding(
            "ok",
            f"resumes at {step.name.replace('global_step_', 'step ')}{f' of {total}' if total else ''} from {step.parent}",
            "a checkpoint folder is code: resume only what you made, or what you would run as a program of who made it",
        )
    elif (folder / TRACKER).is_file():
        yield Finding(
            "warning",
            f"{folder} holds checkpoints that this run would overwrite",
            "resume by trainer.resume_mode=auto, or name a new folder",
        )
    else:
        yield Finding("ok", f"starts anew as {name}")


def claim(config: Any, **how: Any) -> None:
    """Write into the run's folder which run it belongs to, and how it was started, which the model card says later.

    ValueError if this run would resume another run's checkpoint.
    """
    if problem := _foreign_checkpoint(config):
        raise ValueError(f"{problem}; {_OTHER_FOLDER}")
    facts = {
        "digest": experiment.digest(config),
        "base": str(config.actor_rollout_ref.model.path),
        "experiment": str(config.trainer.experiment_name),
        "data": experiment.data(config),
        **how,
    }
    write_json(Path(config.trainer.default_local_dir) / CLAIM, facts)


def _resumed_step(config: Any) -> Path | None:
    """The global_step_N folder that verl would load; None if it would start from the base model."""
    if config.trainer.resume_mode == "resume_path":
        return Path(str(config.trainer.resume_from_path))
    folder = Path(config.trainer.default_local_dir)
    if config.trainer.resume_mode != "auto" or not (folder / TRACKER).is_file():
        return None
    step = latest_step(folder)
    return step if step.is_dir() else None


def _other_world_size(config: Any, step: Path) -> str:
    """Why a checkpoint's shards do not fit the GPUs of this run; "" if they do. verl would miss a file of its own number of ranks."""
    written = sorted(
        {int(found[1]) for file in (step / "actor").glob("model_world_size_*_rank_*.pt") if (found := _SHARD.match(file.name))}
    )
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    return (
        f"{step} was saved by {written[0]} GPUs and this run has {gpus}: verl resumes on as many only"
        if written and gpus not in written
        else ""
    )


def _foreign_checkpoint(config: Any) -> str:
    """Why the checkpoint that would be resumed is not one of this run; "" if it is, or if nothing would be resumed."""
    step = _resumed_step(config)
    if step is None:
        return ""
    if not step.is_dir():
        return f"trainer.resume_from_path={step} does not exist"
    digest, claimed = experiment.digest(config), step.parent / CLAIM
    if not claimed.is_file():
        # A run that was started by main_ppo itself has no claim, but the recipe puts the digest into its folder's name.
        return "" if digest in step.parent.name else f"{step} is not known to be a checkpoint of this run ({digest})"
    try:
        facts = json.loads(claimed.read_text(encoding="utf-8"))
        owner, base = facts["digest"], facts["base"]
    except (ValueError, KeyError, TypeError) as error:
        return f"{claimed} cannot be read ({error}), so it is not known whose checkpoint {step.name} is"
    if owner == digest:
        return ""
    return (
        f"{step} is a checkpoint of another run: base {base}, digest {owner}; this one is {config.actor_rollout_ref.model.path}, {digest}"
    )
