# SPDX-License-Identifier: Apache-2.0
"""Train, export and measure a study with one seed, in the folder OUT/STUDY/seed-SEED:

    config.json, stages.json      what determines its results, and what is finished (stages.py)
    training.log, training.jsonl  the output and the steps of the training
    checkpoints/                  what verl and the launcher write; the steps themselves only until the model is exported
    model/                        the trained model, a Hugging Face folder
    eval/test/                    judgements, answers and metrics.json on the test split of the data (scoring/run.py)

A killed run goes on with the same command. Other settings or code are refused.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

from critic_r1_verl import children, data_folder, foreign, hub, stages
from critic_r1_verl._paths import hydra_root
from critic_r1_verl.files import read_object
from critic_r1_verl.scoring.run import METRICS, Run
from critic_r1_verl.training import experiment, machine
from critic_r1_verl.training.compose import compose, quoted

REFERENCE = "critic_r1"
"""The recipe that all studies change, which is itself the study with no change."""
BASE = "base"
"""The model before the training. It is measured once, as the seed 0."""
LAST_STAGE = "sample"

SEED_KEYS = ("critic_r1.seed",)
"""What a seed decides: which rows, in which order, the sampling of the rollouts, and how the rollouts are divided into updates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What all runs have in common.

    data: a data folder, and model: the base, by default those of the recipe. samples: how many answers to each question are sampled.
    limit: at most so many test pairs and so many questions, 0 for all. keep_checkpoints: also after the export. overrides: Hydra overrides.
    """

    data: Path | None = None
    model: str = ""
    samples: int = 4
    limit: int = 0
    keep_checkpoints: bool = False
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StudyRun:
    """A study with one seed, and its folder.

    recipe and changes: what it trains by, a file of recipe/ and Hydra overrides. start: the model that it begins with, None for the base.
    Of a run that is read from its folder these three are not known, so they do not tell two runs apart.
    """

    study: str
    seed: int
    folder: Path
    recipe: str = field(default=REFERENCE, compare=False)
    changes: tuple[str, ...] = field(default=(), compare=False)
    start: Path | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        return f"{self.study}, seed {self.seed}"

    @property
    def measured(self) -> Run:
        """The run folder of the measurement."""
        return Run(self.folder / "eval" / "test")


def studies() -> list[str]:
    """The names of all studies: the base, the recipe as it is, and the files of recipe/study."""
    return [BASE, REFERENCE, *sorted(file.stem for file in (hydra_root() / "recipe" / "study").glob("*.yaml"))]


def planned(names: Sequence[str], seeds: Sequence[int], out: Path) -> list[StudyRun]:
    """The runs of these studies, or of all of them for "all": first all with the first seed, so that they may be stopped at any time.

    ValueError for an unknown study.
    """
    known = studies()
    if unknown := [name for name in names if name not in (*known, "all")]:
        raise ValueError(f"there is no study {unknown[0]!r}; give all, or one of {', '.join(known)}")
    wanted = known if "all" in names else names
    pairs = dict.fromkeys((name, 0 if name == BASE else seed) for seed in seeds for name in wanted)
    files = {name: (f"+recipe/study={name}",) for name in known if name not in (BASE, REFERENCE)}
    return [StudyRun(name, seed, out / name / f"seed-{seed}", changes=files.get(name, ())) for name, seed in pairs]


def run(runs: Sequence[StudyRun], settings: Settings) -> list[StudyRun]:
    """Do these runs one after the other, and return those that failed. ValueError as for common_overrides."""
    overrides = common_overrides(runs, settings)
    failed = []
    for number, each in enumerate(runs, 1):
        foreign.say(f"{each.name} ({number} of {len(runs)}): {each.folder}")
        if not run_one(each, settings, overrides):
            failed.append(each)
    return failed


def common_overrides(runs: Sequence[StudyRun], settings: Settings) -> list[str]:
    """The overrides of the settings and of this machine, which all runs have. ValueError for one of what the runs set themselves."""
    own = {word.lstrip("+").partition("=")[0] for each in runs for word in _own_overrides(each, settings)} | {"recipe/study"}
    if taken := [word for word in settings.overrides if word.lstrip("+").partition("=")[0] in own]:
        raise ValueError(f"{taken[0]}: a study sets this itself, by its name, --seeds, --data, --model and --out; leave it out")
    return machine.with_own(list(settings.overrides))


def run_one(each: StudyRun, settings: Settings, common: list[str]) -> bool:
    """Do one run, and return whether it succeeded; if not, stderr says why. common: the overrides that all runs have."""
    try:
        _run(each, settings, common)
    except (ValueError, OSError) as error:
        foreign.say(f"critic-r1: {each.name}: {error}", stderr=True)
        return False
    return True


def _own_overrides(each: StudyRun, settings: Settings) -> list[str]:
    values: dict[str, str | Path | int] = {"trainer.default_local_dir": each.folder / "checkpoints"}
    if each.study != BASE:
        values |= dict.fromkeys(SEED_KEYS, each.seed)
    if settings.data:
        values |= {f"data.{split}_files": settings.data / data_folder.rows_file(split) for split in ("train", "val")}
    if start := each.start or settings.model:
        values["actor_rollout_ref.model.path"] = start
    # Of several groups the last one counts, and a study changes what base and hardware say.
    return [*each.changes] + [f"{key}={value if isinstance(value, int) else quoted(str(value))}" for key, value in values.items()]


def _run(each: StudyRun, settings: Settings, common: list[str]) -> None:
    from omegaconf import OmegaConf

    overrides = [*common, *_own_overrides(each, settings)]
    composed = compose(each.recipe, overrides)
    base = settings.model or str(composed.actor_rollout_ref.model.path)
    data = settings.data or Path(str(composed.data.val_files)).parent
    data_folder.read_manifest(data)
    if not (Path(base) / "config.json").is_file() and not hub.is_name(base):
        raise ValueError(
            f"{base}: neither a folder with the config.json of a model nor a hub id (owner/name); give --model, or `make prep`"
        )
    measuring = {"samples": settings.samples, "limit": settings.limit, "max_tokens": composed.data.max_response_length}
    config = {
        "study": each.study,
        "seed": each.seed,
        "code": stages.code(),
        "verl": version("verl"),
        "data": experiment.data_identity(data / data_folder.rows_file("test")),
        "base": experiment.base_identity(base),
        "start": experiment.base_identity(str(each.start)) if each.start else None,
        "overrides": common,
        "measuring": measuring,
        "training": None if each.study == BASE else OmegaConf.to_container(composed, resolve=True),
    }
    model = Path(base) if each.study == BASE else each.folder / "model"
    training = {
        "train": partial(_train, each, overrides),
        "export": partial(_export, each, model),
        "clean": partial(_clean, each, settings.keep_checkpoints),
    }
    limits = ["--max-tokens", str(measuring["max_tokens"]), *(["--limit", str(settings.limit)] if settings.limit else [])]
    flags = ["--model", str(model), "--data", str(data), "--out", str(each.measured.folder.parent), *limits]
    measurement = {"eval": partial(_eval, each, flags), LAST_STAGE: partial(_sample, each, flags, settings.samples)}
    stages.run(each.folder, config, measurement if each.study == BASE else training | measurement)


def _train(each: StudyRun, overrides: Sequence[str]) -> str:
    _critic_r1("train", "--recipe", each.recipe, "--log", str(each.folder / "training.log"), *overrides)
    return "trained"


def _export(each: StudyRun, model: Path) -> str:
    _critic_r1("export", str(each.folder / "checkpoints"), "--out", str(model), log=each.folder / "export.log")
    return str(model)


def _clean(each: StudyRun, keep_checkpoints: bool) -> str:
    """A stage of its own, so that no export is repeated from a checkpoint of which a killed run has removed a part."""
    if keep_checkpoints:
        return "checkpoints kept"
    for step in (each.folder / "checkpoints").glob("*_step_*"):
        shutil.rmtree(step)
    return "checkpoints removed"


def _eval(each: StudyRun, flags: Sequence[str]) -> str:
    _critic_r1("eval", *flags, log=each.folder / "eval.log")
    return _measured(each, critic="accuracy", policy="greedy")


def _sample(each: StudyRun, flags: Sequence[str], samples: int) -> str:
    if not each.measured.questions:
        return "the data have no test questions"
    _critic_r1("select", *flags, "--samples", str(samples), "--method", "majority", log=each.folder / "sample.log")
    return _measured(each, policy="sample")


def _measured(each: StudyRun, **shown: str) -> str:
    metrics = read_object(each.measured.folder / METRICS, "remove the folder of this run")
    found = {f"{part} {key}": (metrics[part] or {}).get(key) for part, key in shown.items()}
    return ", ".join(f"{name} {estimate['value']:.1%}" for name, estimate in found.items() if estimate)


def _critic_r1(*words: str, log: Path | None = None) -> None:
    children.run("-m", "critic_r1_verl.cli", *words, log=log)
