# SPDX-License-Identifier: Apache-2.0
"""Rounds of self-improvement: what each trains by, when the guards stop them, and that the others go on. No training runs here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from critic_r1_verl import cli
from critic_r1_verl.lines import Answer, encode
from critic_r1_verl.records import QuestionRecord, write_jsonl
from critic_r1_verl.scoring.run import Run
from critic_r1_verl.study import guards, self_improve
from critic_r1_verl.study.run import Settings, StudyRun

QUESTIONS = [QuestionRecord(images=(), question=f"Q{number}?", answer="7", source="s") for number in range(40)]
HEALTHY = {
    "response_length/mean": 20.0,
    "actor/entropy": 1.0,
    "judge/distinct": 0.8,
    "judge/readable": 0.9,
    "judge/first": 0.5,
    "judge/tie": 0.1,
    "judge/decided": 0.5,
    "judge/longer": 0.5,
    "actor/lr": 1e-6,
}


def measured(folder: Path, num_right: int) -> Run:
    """A measurement in which so many of the answers are right."""
    (folder / "eval/test").mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "eval/test/records.jsonl", QUESTIONS)
    common = {"text": "", "prompt_tokens": 9, "completion_tokens": 9, "model": "m", "template_sha": "0", "status": "parsed"}
    answers = [
        Answer(question_id=each.question_id, kind="greedy", sample=0, answer="7", correct=number < num_right, **common)
        for number, each in enumerate(QUESTIONS)
    ]
    content = b"".join(encode(line) for line in sorted(answers, key=lambda line: line.key))
    (folder / "eval/test" / Answer.FILE).write_bytes(content)
    return Run(folder / "eval/test")


class World:
    """Stands in for one run of a study: it leaves the steps and the measurement that were asked for, or fails."""

    def __init__(self) -> None:
        self.ran: list[StudyRun] = []
        self.fails: set[str] = set()
        self.steps: dict[str, dict[str, float]] = {}
        self.num_right: dict[str, int] = {}

    def __call__(self, each: StudyRun, settings: Settings, common: list[str]) -> bool:
        self.ran.append(each)
        if each.name in self.fails:
            return False
        measured(each.folder, self.num_right.get(each.name, 20))
        steps = [{"step": 0, "data": {"val-core/digits/acc/mean@1": 0.5}}]
        steps += [{"step": step, "data": HEALTHY | self.steps.get(each.name, {})} for step in (1, 2)]
        (each.folder / "training.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps))
        return True

    @property
    def names(self) -> list[str]:
        return [each.name for each in self.ran]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    stand_in = World()
    monkeypatch.setattr(self_improve, "run_one", stand_in)
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    return stand_in


@pytest.fixture
def improve(tmp_path: Path) -> Callable[..., int]:
    return lambda *words: cli.main(["study", "self-improve", *words, "--model", "base", "--out", str(tmp_path)])


def test_a_round_starts_with_the_model_of_the_one_before_and_is_judged_by_it(tmp_path: Path) -> None:
    first, second = self_improve.rounds("self", 3, 2, Path("base"), tmp_path)
    assert (first.study, first.seed, first.folder, first.start) == ("self-1", 3, tmp_path / "self-1/seed-3", Path("base"))
    assert second.start == first.folder / "model" and second.recipe == "critic_reward"
    assert f"reward.reward_model.model_path='{second.start}'" in second.changes and "reward.reward_model.enable=true" in second.changes


def test_controls_differ_in_the_reward_alone(tmp_path: Path, quick_compose) -> None:
    """The same rows in each round, other rows in the next one; the composed recipes differ in who judges and in nothing that trains."""

    def training(reward: str, number: int) -> str:
        each = list(self_improve.rounds(reward, 1, 2, Path("base"), tmp_path))[number - 1]
        config = quick_compose(each.recipe, [word.replace("'", "") for word in each.changes])
        keys = (
            "data.custom_cls",
            "data.train_batch_size",
            "algorithm",
            "actor_rollout_ref",
            "reward.custom_reward_function",
            "trainer.total_epochs",
        )
        whole = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
        text = "\n".join(f"{key}: {OmegaConf.select(whole, key)}" for key in keys)
        return text.replace(config.trainer.experiment_name, "NAME").replace("any_question", "question")

    of_self = training("self", 1)
    assert of_self == training("coin", 1) == training("truth", 1)
    assert training("truth", 2) != of_self == training("self", 1)


def test_all_rounds_of_all_rewards_and_seeds(world: World, improve: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    assert improve("self,truth", "--rounds", "2", "--seeds", "1,2") == 0
    rounds = [f"{reward}-{number}, seed {seed}" for seed in (1, 2) for reward in ("self", "truth") for number in (1, 2)]
    assert world.names == ["base, seed 0", *rounds]


def test_a_failure_ends_its_own_rounds_alone(world: World, improve: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    world.fails = {"self-1, seed 1"}
    assert improve("self,coin", "--rounds", "2") == 1
    assert world.names == ["base, seed 0", "self-1, seed 1", "coin-1, seed 1", "coin-2, seed 1"]
    world.ran, world.fails = [], {"base, seed 0"}
    assert improve("self") == 1 and world.names == ["base, seed 0"]


@pytest.mark.parametrize(
    ("metric", "value", "meaning"),
    [
        ("response_length/mean", 41.0, "response_length/mean is 41, 20 at first: tokens of a response"),
        ("response_length/mean", 9.0, "tokens of a response"),
        ("actor/entropy", 0.05, "actor/entropy is 0.05, 1 at first: the entropy of the policy"),
        ("judge/distinct", 0.1, "the share of different responses"),
        ("judge/readable", 0.3, "in which an answer can be read"),
        ("judge/first", 0.95, "judge/first is 0.95: the share of verdicts for the response shown first"),
        ("judge/first", 0.05, "the share of verdicts for the response shown first"),
        ("judge/tie", 0.95, "the share of verdicts for neither"),
        ("judge/decided", 0.01, "the share of comparisons with a winner"),
        ("judge/longer", 0.95, "the share of comparisons that the longer response wins"),
    ],
)
def test_an_alarm_stops_the_rounds(
    world: World, improve: Callable[..., int], capsys: pytest.CaptureFixture, metric: str, value: float, meaning: str
) -> None:
    world.steps = {"self-2, seed 1": {metric: value}}
    assert improve("self", "--rounds", "3") == 1
    assert world.names == ["base, seed 0", "self-1, seed 1", "self-2, seed 1"]
    said = capsys.readouterr().err
    assert meaning in said and "self-2, seed 1: the rounds of self with this seed are stopped" in said
    world.ran = []
    assert improve("self", "--rounds", "3", "--no-stop") == 0 and len(world.ran) == 4
    assert meaning in capsys.readouterr().err


def test_slow_growth_is_measured_from_the_first_round(world: World, improve: Callable[..., int]) -> None:
    world.steps = {f"self-{number}, seed 1": {"response_length/mean": 20 * 1.5 ** (number - 1)} for number in range(1, 9)}
    assert improve("self", "--rounds", "8") == 1 and world.names[-1] == "self-3, seed 1"


@pytest.mark.parametrize(("num_right", "stops"), [(30, False), (20, False), (18, False), (8, True)])
def test_fewer_right_answers_than_the_base_stop_the_rounds(
    world: World, improve: Callable[..., int], capsys: pytest.CaptureFixture, num_right: int, stops: bool
) -> None:
    """Luck does not: of 40 answers, two fewer are right by chance."""
    world.num_right = {"self-1, seed 1": num_right}
    assert improve("self", "--rounds", "2") == stops
    assert ("right less often than those of the base: -30.0 points [" in capsys.readouterr().err) is stops


def test_what_a_training_does_not_measure_is_no_alarm() -> None:
    assert guards.of_trainings([{"actor/entropy": 1.0}], [{"actor/lr": 1.0}]) == []
    # The end is the last quarter: one odd step in many is no collapse.
    steps = [HEALTHY] * 7 + [HEALTHY | {"judge/first": 1.0}]
    assert guards.of_trainings(steps, steps) == []


def test_rewards_and_overrides_that_cannot_be(improve: Callable[..., int], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        improve("self,luck")
    assert "'luck' is none of self, coin, truth" in capsys.readouterr().err
    assert improve("self", "critic_r1.seed=2") == 1
    assert "critic_r1.seed=2: a study sets this itself" in capsys.readouterr().err
    assert improve("truth,self", "critic_r1.judge.base_url=http://another/v1") == 1


def test_rounds_go_on_where_they_were_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command dies at its end when it is called first; what was finished before is not done again, nor is what died."""
    ran: list[str] = []

    def command(*words: str, log: Path | None = None) -> None:
        name, out = words[2], {word.partition("=")[0]: word.partition("=")[2].strip("'") for word in words}
        what = f"{name} {out['trainer.default_local_dir'] if name == 'train' else words[words.index('--out') + 1]}"
        if name == "train":
            folder = Path(out["trainer.default_local_dir"])
            (folder / "global_step_1").mkdir(parents=True, exist_ok=True)
            (folder.parent / "training.jsonl").write_text(json.dumps({"step": 1, "data": HEALTHY}) + "\n")
        elif name == "export":
            Path(what.split()[1]).mkdir(exist_ok=True)
            (Path(what.split()[1]) / "config.json").write_text("{}")
        else:
            run = measured(Path(what.split()[1]).parent, 20)
            (run.folder / "metrics.json").write_text('{"critic": null, "policy": {"greedy": {"value": 0.5}, "sample": {"value": 0.5}}}')
        ran.append(what)
        if ran.count(what) == 1:
            raise KeyboardInterrupt

    def composed(recipe: str, overrides: list[str]) -> Any:
        return OmegaConf.create(
            {"recipe": recipe, "overrides": sorted(overrides), "data": {"max_response_length": 8, "val_files": "data/val"}}
        )

    for name in ("base", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "base/config.json").write_text("{}")
    (tmp_path / "data/manifest.json").write_text('{"corpora": {}, "templates": {}}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.setattr("critic_r1_verl.children.run", command)
    monkeypatch.setattr("critic_r1_verl.study.run.compose", composed)
    words = ["study", "self-improve", "self", "--rounds", "2", "--model", "base", "--data", "data", "--out", "out"]
    for _ in range(10):
        assert cli.main(words) == 130
    assert cli.main(words) == 0
    in_round = ["train out/{}/seed-1/checkpoints", "export out/{}/seed-1/model", "eval out/{}/seed-1/eval", "select out/{}/seed-1/eval"]
    expected = ["eval out/base/seed-0/eval", "select out/base/seed-0/eval"]
    expected += [line.format(name) for name in ("self-1", "self-2") for line in in_round]
    assert ran == [each for what in expected for each in (what, what)]

    # Another model of the first round is another beginning of the second one.
    (tmp_path / "out/self-1/seed-1/model/config.json").write_text("[]")
    assert cli.main(words) == 1 and len(ran) == 20
