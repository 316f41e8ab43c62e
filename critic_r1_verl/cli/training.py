# SPDX-License-Identifier: Apache-2.0
"""critic-r1 doctor, plan, train and export: the commands around verl's trainer."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from critic_r1_verl import foreign
from critic_r1_verl.cli import flags

if TYPE_CHECKING:
    from critic_r1_verl.training import doctor


def add_commands(commands: Any) -> None:
    recipe = argparse.ArgumentParser(add_help=False)
    recipe.add_argument("--recipe", default="critic_r1", metavar="NAME", help="a file of recipe/ (default: %(default)s)")
    recipe.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides, as for verl.trainer.main_ppo")

    doctor = flags.command(
        commands,
        "doctor",
        _doctor,
        "check machine, data and recipe before a long training; the exit status is 1 if the training cannot start",
        "critic-r1 doctor --recipe critic_r1 actor_rollout_ref.model.path=Qwen/Qwen2.5-VL-3B-Instruct",
        parents=[recipe],
    )
    doctor.add_argument("--json", action="store_true", help='print a JSON list of {"level", "what", "remedy"}')
    doctor.add_argument("--clean", action="store_true", help="first end processes and remove files that earlier runs left behind")

    plan = flags.command(
        commands,
        "plan",
        _plan,
        "say what a run will take: steps, memory by part, CPUs, disk, hours",
        "critic-r1 plan --recipe critic_r1 +recipe/hardware=8x80g",
        parents=[recipe],
    )
    plan.add_argument("--gpu", metavar="NAME", help="plan for this GPU, as H100 (default: this machine's, else one of the recipe's memory)")
    plan.add_argument(
        "--run", dest="of_run", metavar="DIR", help="take measurements from this run's training.jsonl (default: the recipe's own run)"
    )
    plan.add_argument("--json", action="store_true", help="print the plan as JSON: bytes, seconds, tokens")

    train = flags.command(
        commands,
        "train",
        _train,
        "run the checks of doctor, then train; the same command resumes an interrupted training",
        "critic-r1 train --recipe critic_r1 trainer.total_training_steps=100",
        parents=[recipe],
    )
    train.add_argument("--log", type=Path, metavar="FILE", help="append the output to FILE (default: training.log beside the checkpoints)")

    export = flags.command(
        commands,
        "export",
        _export,
        "convert a checkpoint to a Hugging Face folder",
        "critic-r1 export checkpoints/critic_r1/EXPERIMENT --out runs/trained",
    )
    export.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a global_step_N folder, or that of an experiment (last step)")
    export.add_argument("--best", action="store_true", help="of an experiment, the checkpoint with the best held-out critic accuracy")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write")
    export.add_argument(
        "--eval",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="put the measurements that `critic-r1 eval` or `select` made with this model into its card; may be repeated",
    )
    export.add_argument("--push", metavar="OWNER/NAME", help="upload the folder to the hub as well, into a private repository")
    export.add_argument("--public", action="store_true", help="with --push: the repository may be seen by all")


def _doctor(arguments: argparse.Namespace) -> int:
    from critic_r1_verl import supervise
    from critic_r1_verl.training import doctor

    if arguments.clean:
        for leftover in supervise.leftovers():
            supervise.reap(leftover.run)
            pids = ", ".join(str(pid) for pid, _ in leftover.processes) or "none"
            foreign.say(f"cleaned up after run {leftover.run}: processes {pids}, {len(leftover.segments)} segment(s)", stderr=True)
    findings = doctor.examine(arguments.recipe, arguments.overrides, first_rows=True)
    if arguments.json:
        foreign.say_json([asdict(finding) for finding in findings])
    else:
        doctor.show(findings)
    return int(doctor.has_fatal(findings))


def _plan(arguments: argparse.Namespace) -> int:
    from critic_r1_verl.training import plan
    from critic_r1_verl.training.plan import table

    made = plan.make(arguments.recipe, arguments.overrides, gpu=arguments.gpu, run=arguments.of_run)
    if arguments.json:
        foreign.say_json(asdict(made))
    else:
        table.show(made)
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from critic_r1_verl import devices, hub
    from critic_r1_verl.files import locked
    from critic_r1_verl.training import checkpoints, compose, doctor, export, launch, machine

    overrides = machine.with_own(arguments.overrides)
    # Ten seconds more are little before hours on GPUs, and much before minutes on a CPU.
    first_rows = devices.gpu_count() > 0
    findings = doctor.examine(arguments.recipe, overrides, first_rows=first_rows)
    if not _may_start(findings):
        return 1
    config = compose.compose(arguments.recipe, overrides)
    base = str(config.actor_rollout_ref.model.path)
    from_hub = hub.is_name(base) and not Path(base).is_dir()
    if from_hub and not hub.cached(base):
        # One process downloads the base, which all others then find in the cache. Only now can doctor look at it.
        hub.fetch(base, "base")
        again = doctor.examine(arguments.recipe, overrides, first_rows=first_rows)
        if not _may_start([finding for finding in again if finding not in findings]):
            return 1
    folder = Path(config.trainer.default_local_dir)
    log_path = arguments.log or folder / "training.log"
    doctor.claim(config, recipe=arguments.recipe, overrides=overrides, steps=str(launch.steps_path(log_path)))
    log_start = log_path.stat().st_size if log_path.exists() else 0
    steps: list[dict] = []
    keep_best = checkpoints.BestKeeper(config)

    def on_step(step: dict) -> None:
        steps.append(step)
        keep_best(step)

    given = [*overrides, *(_from_cache(config, base) if from_hub else [])]
    # A training whose command was killed takes some seconds to end, and would write over the steps of the one that goes on.
    with locked(folder, wait_seconds=launch.CLEANUP_SECONDS):
        status = launch.train(arguments.recipe, given, log_path=log_path, on_step=on_step)
    if status:
        return status
    scores = [line for line in steps if "critic/score/mean" in line["data"]]
    if scores:
        foreign.say(f"step {scores[-1]['step']}: mean score {scores[-1]['data']['critic/score/mean']:.3f}")
    elif (number := launch.last_logged_step(log_path, log_start)) is not None:
        where = launch.steps_path(log_path)
        foreign.say(f"step {number}: see {log_path}; {where} was not written, by trainer.logger or by a trainer on another machine")
    else:
        foreign.say("no step was left to train")
    checkpoint = export.latest_step(folder) if (folder / doctor.TRACKER).is_file() else None
    foreign.say(f"checkpoint: {checkpoint or f'none was saved (trainer.save_freq={config.trainer.save_freq})'}")
    if kept := checkpoints.best(folder):
        foreign.say(
            f"best checkpoint: step {kept.step}, right on {kept.accuracy:.1%} of {kept.num_rows} held-out rows; export it by --best"
        )
    return 0


def _from_cache(config: Any, base: str) -> list[str]:
    """Overrides by which the processes of a run read a base of the hub from its folder in the cache, under the run's own name.

    They then ask the hub for nothing. By name, vLLM does not start offline if pickled weights or code of the base were left on the hub. The
    machines of a cluster have caches of their own, so there the name stays.
    """
    from critic_r1_verl import hub
    from critic_r1_verl.training import cluster, compose

    folder = None if cluster.is_given() else hub.cached(base)
    if folder is None:
        return []
    values = {"actor_rollout_ref.model.path": str(folder), "trainer.experiment_name": str(config.trainer.experiment_name)}
    return [f"{key}={compose.quoted(value)}" for key, value in values.items()]


def _may_start(findings: "list[doctor.Finding]") -> bool:
    """Show the problems among these findings; False, with a message, if one of them is fatal."""
    from critic_r1_verl.training import doctor

    if problems := [finding for finding in findings if finding.level != "ok"]:
        doctor.show(problems, stderr=True)
    if doctor.has_fatal(findings):
        foreign.say("critic-r1: the training was not started; `critic-r1 doctor` with the same arguments shows all checks", stderr=True)
    return not doctor.has_fatal(findings)


def _export(arguments: argparse.Namespace) -> int:
    from critic_r1_verl.report import card
    from critic_r1_verl.training import checkpoints, export, push

    if arguments.public and not arguments.push:
        raise ValueError("--public says how --push uploads; give --push OWNER/NAME too")
    # A missing token or right should not be found out after minutes of writing.
    address = push.open_repo(arguments.push, public=arguments.public) if arguments.push else None
    checkpoint = checkpoints.best_folder(arguments.checkpoint) if arguments.best else arguments.checkpoint
    step = export.export(checkpoint, arguments.out)
    card.write(step, export.step_number(step), arguments.out, evals=arguments.eval)
    foreign.say(f"model: {arguments.out}")
    if address:
        push.upload(arguments.out, arguments.push)
        foreign.say(f"uploaded to {address}")
    return 0
