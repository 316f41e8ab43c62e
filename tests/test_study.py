# SPDX-License-Identifier: Apache-2.0
"""The runner of studies: what is run in which order, resumed, skipped, refused. Stand-ins for the commands leave what the real ones do."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

from critic_r1_verl import children, cli, devices
from critic_r1_verl.records import Image, QuestionRecord, write_jsonl
from critic_r1_verl.study import run as study

RUN = ["train", "export", "eval", "select"]
QUESTION = QuestionRecord(images=(Image(path="a.png", sha256="0" * 64),), question="Q?", answer="7", source="s")


def option(words: tuple[str, ...], flag: str) -> str:
    return words[words.index(flag) + 1]


def composed(recipe: str, overrides: list[str]) -> Any:
    """The keys of verl's configuration that matter here."""
    config = OmegaConf.create({"data": {"max_response_length": 64, "train_batch_size": 16, "val_files": "runs/data/val.parquet"}})
    for key, _, value in (word.partition("=") for word in overrides if not word.startswith("+recipe/")):
        OmegaConf.update(config, key, value.strip("'"), force_add=True)
    return config


class Commands:
    """Stands in for `python -m critic_r1_verl.cli`; dies or fails at the command that `at` names."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, ...]] = []
        self.at, self.error = "", None

    def __call__(self, *words: str, log: Path | None = None) -> None:
        command = words[2:]
        self.ran.append(command)
        name, *values = command
        if name == "train":
            for folder in ("global_step_2", "best_step_1", "validation"):
                (self.checkpoints(values) / folder).mkdir(parents=True, exist_ok=True)
        elif name == "export":
            assert (Path(values[0]) / "global_step_2").is_dir()
            Path(option(command, "--out")).mkdir(exist_ok=True)
        else:
            assert Path(option(command, "--model")).is_dir()
            test = Path(option(command, "--out")) / "test"
            test.mkdir(parents=True, exist_ok=True)
            write_jsonl(test / "records.jsonl", [QUESTION])
            estimates = {"critic": {"accuracy": {"value": 0.75}}, "policy": {"greedy": {"value": 0.5}, "sample": None}}
            (test / "metrics.json").write_text(json.dumps(estimates))
        if name == self.at and self.error:
            raise self.error

    @staticmethod
    def checkpoints(words: list[str]) -> Path:
        return Path(next(word for word in words if word.startswith("trainer.default_local_dir=")).partition("=")[2].strip("'"))

    def take(self) -> list[str]:
        """The names of the commands since the last call."""
        names, self.ran = [words[0] for words in self.ran], []
        return names


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Studies `a_first` and `b_second`, a data folder, a base, and stand-ins for the commands."""
    (tmp_path / "recipe/study").mkdir(parents=True)
    for name in ("b_second", "a_first"):
        (tmp_path / "recipe/study" / f"{name}.yaml").write_text("# @package _global_\n")
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text("{}")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/manifest.json").write_text('{"corpora": {}, "templates": {}}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.setattr(devices, "gpu_count", lambda: 0)
    monkeypatch.setattr(study, "hydra_root", lambda: tmp_path)
    monkeypatch.setattr(study, "compose", composed)
    monkeypatch.setattr(study.stages, "code", lambda: "of today")
    stand_in = Commands()
    monkeypatch.setattr(children, "run", stand_in)
    return stand_in


def run(*words: str, name: str = "critic_r1") -> int:
    return cli.main(["study", "run", name, "--data", "data", "--model", "base", "--out", "out", *words])


def test_all_come_with_the_first_seed_before_any_comes_with_the_second(commands: Commands) -> None:
    runs = study.planned(["all"], [2, 1, 2], Path("out"))
    names = ("critic_r1", "a_first", "b_second")
    assert [(each.study, each.seed) for each in runs] == [("base", 0), *((name, 2) for name in names), *((name, 1) for name in names)]
    assert runs[1].folder == Path("out/critic_r1/seed-2")
    with pytest.raises(ValueError, match=r"no study 'c_third'; give all, or one of base, critic_r1, a_first, b_second"):
        study.planned(["critic_r1", "c_third"], [1], Path("out"))


def test_a_run_trains_exports_and_measures(commands: Commands, tmp_path: Path) -> None:
    assert run("--seeds", "3", "--limit", "5", "trainer.total_training_steps=2", name="a_first") == 0
    train, export, evaluation, sample = commands.ran
    assert [words[0] for words in commands.ran] == RUN
    for word in ("+recipe/study=a_first", "trainer.total_training_steps=2", "data.train_files='data/train.parquet'"):
        assert word in train
    assert {f"{key}=3" for key in study.SEED_KEYS} <= {*train}
    assert export[1:] == ("out/a_first/seed-3/checkpoints", "--out", "out/a_first/seed-3/model")
    for words in (evaluation, sample):
        assert (option(words, "--model"), option(words, "--data")) == ("out/a_first/seed-3/model", "data")
        # Answers may be as long as in training.
        assert (option(words, "--limit"), option(words, "--max-tokens")) == ("5", "64")
    assert option(sample, "--samples") == "4"
    assert [file.name for file in (tmp_path / "out/a_first/seed-3/checkpoints").iterdir()] == ["validation"]
    config = json.loads((tmp_path / "out/a_first/seed-3/config.json").read_text())
    assert (config["study"], config["seed"], config["training"]["trainer"]["total_training_steps"]) == ("a_first", 3, "2")


def test_the_base_is_measured_once_and_not_trained(commands: Commands) -> None:
    assert run("--seeds", "1,2", name="base") == 0
    assert commands.take() == ["eval", "select"]


def test_checkpoints_stay_if_asked(commands: Commands, tmp_path: Path) -> None:
    assert run("--keep-checkpoints") == 0
    assert (tmp_path / "out/critic_r1/seed-1/checkpoints/global_step_2").is_dir()


@pytest.mark.parametrize("at", RUN)
def test_a_killed_run_goes_on_with_the_command_that_was_killed(commands: Commands, at: str, capsys: pytest.CaptureFixture[str]) -> None:
    commands.at, commands.error = at, SystemExit(143)
    with pytest.raises(SystemExit, match="143"):
        run("--seeds", "1,2")
    before = commands.take()
    assert before == RUN[: RUN.index(at) + 1]
    commands.error = None
    assert run("--seeds", "1,2") == 0
    assert commands.take() == RUN[RUN.index(at) :] + RUN
    capsys.readouterr()
    assert run("--seeds", "1,2") == 0
    assert commands.take() == []
    assert capsys.readouterr().out.count("finished before: trained; ") == 2


def test_a_killed_removal_of_checkpoints_goes_on(commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def half(step: Path) -> None:
        step.rmdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(study, "shutil", SimpleNamespace(rmtree=half))
        assert run() == 130
    assert commands.take() == ["train", "export"]
    assert run() == 0
    assert commands.take() == ["eval", "select"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--samples", "2"], "measuring.samples was 4, now 2"),
        (["data.train_batch_size=32"], 'training.data.train_batch_size was 16, now "32"'),
        (["--model", "other/base"], 'base was ["'),
    ],
)
def test_other_settings_are_refused(commands: Commands, words: list[str], what: str, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    commands.take()
    assert run(*words) == 1
    assert commands.take() == []
    err = capsys.readouterr().err
    assert "out/critic_r1/seed-1 was made with other settings or code: " in err and what in err and "remove the folder" in err


def test_other_code_is_refused(commands: Commands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    monkeypatch.setattr(study.stages, "code", lambda: "of yesterday")
    assert run() == 1
    assert 'now "of yesterday"' in capsys.readouterr().err


@pytest.mark.parametrize("name", ["stages.json", "config.json"])
def test_a_folder_of_unknown_origin_is_refused(commands: Commands, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run()
    (tmp_path / "out/critic_r1/seed-1" / name).write_text("{broken")
    assert run() == 1
    (tmp_path / "out/critic_r1/seed-1/config.json").unlink()
    assert run() == 1
    err = capsys.readouterr().err
    assert f"{name}: cannot be read" in err and "not known how checkpoints in it was made" in err


def test_one_failure_does_not_stop_the_others(commands: Commands, capsys: pytest.CaptureFixture[str]) -> None:
    def failing(*words: str, log: Path | None = None) -> None:
        if "+recipe/study=a_first" in words:
            raise ValueError("python -m critic_r1_verl.cli ... failed with exit status 1")
        commands(*words, log=log)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(children, "run", failing)
        assert run(name="all") == 1
    assert commands.take() == ["eval", "select", *RUN, *RUN]
    assert "1 of 4 runs failed: a_first, seed 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([f"{study.SEED_KEYS[0]}=4"], f"{study.SEED_KEYS[0]}=4: a study sets this itself"),
        (["+recipe/study=b_second"], "+recipe/study=b_second: a study sets this itself"),
        (["--data", "nowhere"], "nowhere/manifest.json: cannot be read"),
        (["--model", "no/such/base"], "no/such/base: neither a folder"),
    ],
)
def test_bad_input_leaves_no_folder(commands: Commands, words: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    assert run(*words) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert commands.take() == []


@pytest.mark.parametrize("seeds", ["", "0", "1,", "a", "1.5"])
def test_seeds_are_whole_numbers_of_1_or_more(seeds: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.parse(["study", "run", "critic_r1", "--out", "out", "--seeds", seeds])
