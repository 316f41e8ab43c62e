# SPDX-License-Identifier: Apache-2.0
"""The commands: arguments, exit statuses and messages, with what they call faked."""

import importlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from critic_r1_verl import cli, devices, supervise
from critic_r1_verl.cli import flags
from critic_r1_verl.files import locked
from critic_r1_verl.training import checkpoints, doctor, launch
from critic_r1_verl.training.doctor import Finding

FATAL = [Finding("ok", "fine"), Finding("fatal", "the data are gone", "run `make prep`")]
SOUND = [Finding("ok", "fine")]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A folder without anything, no GPU, nothing asked for; the environment is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        os, "environ", {name: value for name, value in os.environ.items() if name not in ("VERL_PLATFORM", "RAY_ADDRESS", cli.DEBUG)}
    )
    monkeypatch.setattr(devices, "gpu_count", lambda: 0)
    monkeypatch.setattr(supervise, "leftovers", list)
    return tmp_path


@pytest.fixture
def training(machine, monkeypatch):
    """`train` with checks that find nothing and a trainer that writes two steps and a checkpoint."""
    seen = types.SimpleNamespace(
        examined=None, trained=None, log=None, status=0, steps=[1, 2], findings=SOUND, claimed={}, printed="", kept=[]
    )

    def examine(recipe, overrides, *, first_rows):
        seen.examined = (recipe, overrides, os.environ.get("VERL_PLATFORM"))
        return seen.findings

    def train(recipe, overrides, *, log_path, quiet=False, on_step=None):
        seen.trained, seen.log = (recipe, overrides), log_path
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("a") as log:
            log.write(seen.printed)
        for step in seen.steps:
            on_step({"step": step, "data": {"critic/score/mean": step / 4}})
        on_step({"step": 2, "data": {"val-core/digits/acc/mean@1": 0.5}})
        folder = machine / "checkpoints" / "mine"
        (folder / "global_step_2").mkdir(parents=True, exist_ok=True)
        (folder / doctor.TRACKER).write_text("2")
        return seen.status

    trainer = types.SimpleNamespace(default_local_dir=str(machine / "checkpoints" / "mine"), save_freq=10, experiment_name="mine")
    monkeypatch.setattr(doctor, "examine", examine)
    base = types.SimpleNamespace(model=types.SimpleNamespace(path=str(machine)))
    seen.config = types.SimpleNamespace(trainer=trainer, actor_rollout_ref=base)
    monkeypatch.setattr("critic_r1_verl.training.compose.compose", lambda recipe, overrides: seen.config)
    monkeypatch.setattr(doctor, "claim", lambda config, **how: seen.claimed.update(how))
    monkeypatch.setattr(launch, "train", train)
    monkeypatch.setattr(checkpoints, "BestKeeper", lambda config: seen.kept.append)
    return seen


def test_help_answers_at_once():
    code = """
import sys
from critic_r1_verl import cli
try:
    cli.main(["--help"])
except SystemExit as end:
    heavy = ("torch", "verl", "vllm", "transformers", "datasets", "ray", "hydra", "numpy", "pyarrow", "rich")
    sys.exit(f"{end.code} {[name for name in heavy if name in sys.modules]}")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "0 []"
    assert all(
        command in done.stdout for command in ("data", "doctor", "train", "export", "eval", "select", "judge", "score", "compare", "report")
    )


@pytest.mark.parametrize("argv", [[], ["nope"], ["export"], ["report", "a", "b"], ["train", "--nope", "a=1"], ["doctor", "a=1", "--nope"]])
def test_wrong_arguments(argv, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 2
    assert "usage: critic-r1" in capsys.readouterr().err


# doctor


@pytest.mark.parametrize("findings, status", [(SOUND, 0), ([*SOUND, Finding("warning", "hm", "so")], 0), (FATAL, 1)])
def test_doctor(machine, monkeypatch, capsys, findings, status):
    monkeypatch.setattr(doctor, "examine", lambda recipe, overrides, first_rows: findings)
    assert cli.main(["doctor"]) == status
    assert all(finding.what in capsys.readouterr().out for finding in findings[-1:])
    assert cli.main(["doctor", "--json"]) == status
    assert [Finding(**item) for item in json.loads(capsys.readouterr().out)] == findings


def test_overrides_may_stand_around_the_flags(machine, monkeypatch):
    seen = []
    monkeypatch.setattr(doctor, "examine", lambda recipe, overrides, first_rows: seen.append((recipe, overrides)) or SOUND)
    for argv in (
        ["+a=1", "b=2", "--recipe", "r", "~c", "++d=4"],
        ["--recipe=r", "+a=1", "b=2", "~c", "++d=4"],
        ["+a=1", "--recipe", "r", "b=2", "~c", "++d=4"],
    ):
        assert cli.main(["doctor", *argv]) == 0
    assert seen == [("r", ["+a=1", "b=2", "~c", "++d=4"])] * 3


def test_doctor_cleans_up_first(machine, monkeypatch, capsys):
    left, done = [supervise.Leftover("abc", ((17, "ray::WorkerDict"),), ("psm_1",), None)], []
    monkeypatch.setattr(supervise, "leftovers", lambda: left)
    monkeypatch.setattr(supervise, "reap", lambda run: done.append(run) or left.clear())
    monkeypatch.setattr(doctor, "examine", lambda recipe, overrides, first_rows: SOUND if done else FATAL)
    assert cli.main(["doctor", "--clean"]) == 0
    assert done == ["abc"]
    assert "processes 17, 1 segment(s)" in capsys.readouterr().err


# train

TINY = ["+recipe/base=tiny", "+recipe/hardware=cpu"]


@pytest.mark.parametrize(
    "environment, gpus, overrides, trained",
    [
        ({}, 0, ["a=1"], [*TINY, "a=1"]),
        ({}, 0, ["+recipe/base=tiny"], ["+recipe/hardware=cpu", "+recipe/base=tiny"]),
        ({}, 0, TINY, TINY),
        ({}, 0, ["+recipe/hardware=1x24g"], None),
        ({}, 0, ["trainer.device=cuda"], None),
        ({"VERL_PLATFORM": "cpu"}, 0, ["a=1"], None),
        ({"VERL_PLATFORM": "huawei"}, 0, ["a=1"], None),
        ({"RAY_ADDRESS": "auto"}, 0, ["a=1"], None),
        ({}, 8, ["a=1"], None),
    ],
)
def test_train_takes_the_small_base_only_where_there_is_nothing_else(training, monkeypatch, capsys, environment, gpus, overrides, trained):
    os.environ.update(environment)
    monkeypatch.setattr(doctor.machine, "has_flash_attn", lambda: True)
    monkeypatch.setattr(devices, "gpu_count", lambda: gpus)
    assert cli.main(["train", "--recipe", "critic_r1_plus", *overrides]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert training.trained == ("critic_r1_plus", trained or overrides)
    if trained:
        assert training.examined == ("critic_r1_plus", trained, "cpu")
        assert first.startswith("no GPU here: training the small base on the CPU")
    else:
        assert training.examined == ("critic_r1_plus", overrides, environment.get("VERL_PLATFORM"))
        assert first.startswith("step 2")


PADDED = "actor_rollout_ref.model.use_remove_padding=false"
SDPA = "++actor_rollout_ref.model.override_config.attn_implementation=sdpa"


@pytest.mark.parametrize(
    ("environment", "overrides", "added"),
    [
        ({}, ["a=1"], [PADDED, SDPA]),
        ({"VERL_PLATFORM": "amd"}, ["+recipe/hardware=1x24g"], [PADDED, SDPA]),
        ({}, ["actor_rollout_ref.model.use_remove_padding=true"], [SDPA]),
        ({"VERL_PLATFORM": "cpu"}, ["a=1"], []),
        ({"RAY_ADDRESS": "auto"}, ["a=1"], []),
    ],
)
def test_train_goes_without_flash_attn_and_says_so(training, monkeypatch, capsys, environment, overrides, added):
    os.environ.update(environment)
    monkeypatch.setattr(devices, "gpu_count", lambda: 8)
    monkeypatch.setattr(doctor.machine, "has_flash_attn", lambda: False)
    assert cli.main(["train", *overrides]) == 0
    assert training.trained == ("critic_r1", added + overrides)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("flash-attn is not installed") == bool(added) and all(word in first for word in added)


@pytest.mark.parametrize("on_cluster", [False, True])
def test_a_base_of_the_hub_is_downloaded_once_and_read_from_the_cache(training, machine, monkeypatch, on_cluster):
    """vLLM takes a snapshot without what stays on the hub for incomplete when it is offline and is given the name."""
    cached, fetched = [None], []
    monkeypatch.setattr("critic_r1_verl.hub.cached", lambda name: cached[-1])
    monkeypatch.setattr("critic_r1_verl.hub.fetch", lambda *given: fetched.append(given) or cached.append(machine / "it's here"))
    training.config.actor_rollout_ref.model.path = "Qwen/Qwen2.5-VL-7B-Instruct"
    os.environ.update({"VERL_PLATFORM": "cpu"} | ({"RAY_ADDRESS": "auto"} if on_cluster else {}))
    assert cli.main(["train", "a=1"]) == 0
    assert fetched == [("Qwen/Qwen2.5-VL-7B-Instruct", "base")]
    folder = f"actor_rollout_ref.model.path='{machine}/it\\'s here'"
    assert training.trained[1] == ["a=1", *([] if on_cluster else [folder, "trainer.experiment_name='mine'"])]


def test_train_says_what_came_out(training, machine, capsys):
    assert cli.main(["train"]) == 0
    assert training.log == machine / "checkpoints" / "mine" / "training.log"
    assert training.claimed["recipe"] == "critic_r1" and training.claimed["steps"] == str(training.log.with_suffix(".jsonl"))
    assert capsys.readouterr().out.splitlines()[1:] == ["step 2: mean score 0.500", f"checkpoint: {machine}/checkpoints/mine/global_step_2"]
    assert [line["step"] for line in training.kept] == [1, 2, 2]
    training.steps = []
    (machine / "checkpoints" / "mine" / "global_step_2").rmdir()
    assert cli.main(["train", "--log", "here.log"]) == 0
    assert training.log == Path("here.log")
    assert "no step was left to train" in capsys.readouterr().out


def test_train_names_the_best_checkpoint(training, monkeypatch, capsys):
    monkeypatch.setattr(checkpoints, "best", lambda folder: checkpoints.Best(2, 0.75, 64, "best_step_2"))
    assert cli.main(["train"]) == 0
    last = "best checkpoint: step 2, right on 75.0% of 64 held-out rows; export it by --best"
    assert capsys.readouterr().out.splitlines()[-1] == last


def test_train_knows_steps_that_are_in_the_log_alone(training, capsys):
    training.steps, training.printed = [], "step:6 - critic/score/mean:0.5\nstep:7 - actor/loss:1 - critic/score/mean:0.5 - x:1\n"
    assert cli.main(["train", "--log", "here.log"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("step 7: see here.log; ")
    # What an earlier run printed into the same file is not this run's.
    training.printed = "step:7 - val-core/x/acc/mean@1:0.5\n"
    assert cli.main(["train", "--log", "here.log"]) == 0
    assert "no step was left to train" in capsys.readouterr().out


def test_train_does_not_start_what_is_doomed(training, capsys):
    training.findings = FATAL
    assert cli.main(["train"]) == 1
    assert training.trained is None
    err = capsys.readouterr().err
    assert "the data are gone" in err and "make prep" in err and "fine" not in err


def test_train_waits_for_a_training_in_its_folder_that_is_about_to_end(training, machine, monkeypatch, capsys):
    monkeypatch.setattr(launch, "CLEANUP_SECONDS", 0.05)
    with locked(machine / "checkpoints" / "mine"):
        assert cli.main(["train"]) == 1
    assert "checkpoints/mine: another process writes into this folder" in capsys.readouterr().err
    assert training.trained is None


def test_train_returns_the_trainings_status(training, capsys):
    training.status = 137
    assert cli.main(["train"]) == 137
    assert "checkpoint" not in capsys.readouterr().out


def test_train_without_anything_prepared_is_short(machine, capsys):
    assert cli.main(["train"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("no GPU here")
    assert "runs/demo/data/train.parquet" in "".join(err.split()) and "make prep" in err
    assert "Traceback" not in err


@pytest.fixture
def engine(machine, monkeypatch, scripted):
    """What judges, scripted: the first response shown is always better."""
    model = scripted(lambda *_: "<think>The first is right.</think> \\boxed{1}")
    monkeypatch.setattr(flags, "open_engine", lambda arguments: (model, {"kind": "scripted"}))
    return model


def write_pairs(folder: Path, name: str = "mine", count: int = 4) -> Path:
    import hashlib

    from PIL import Image as Picture

    from critic_r1_verl.records import Image, PairRecord, write_jsonl

    (folder / "images").mkdir(exist_ok=True)
    Picture.new("RGB", (28, 28), "red").save(folder / "images/red.png")
    image = Image(path="images/red.png", sha256=hashlib.sha256((folder / "images/red.png").read_bytes()).hexdigest())
    texts = {"response_1": "red", "response_2": "blue", "preferred": "1", "source": "test"}
    write_jsonl(folder / f"{name}.jsonl", [PairRecord(images=(image,), question=f"{name} {n}?", **texts) for n in range(count)])
    return folder / f"{name}.jsonl"


# export and report


@pytest.fixture
def fake(monkeypatch):
    """fake("training.export", export=...) puts a module in the place of critic_r1_verl.training.export."""

    def put(name: str, **functions):
        package, _, last = f"critic_r1_verl.{name}".rpartition(".")
        module = types.SimpleNamespace(**functions)
        monkeypatch.setitem(sys.modules, f"{package}.{last}", module)
        monkeypatch.setattr(importlib.import_module(package), last, module, raising=False)

    return put


@pytest.fixture
def exported(machine, fake):
    """What `export` calls, in order: each call as (name, its arguments)."""
    calls = []
    step = Path("exp/global_step_2")
    fake("training.export", export=lambda *given: calls.append(("export", *given)) or step, step_number=lambda step: 2)
    fake("report.card", write=lambda *given, evals: calls.append(("card", *given, evals)))
    fake(
        "training.push",
        open_repo=lambda repo, public: calls.append(("open", repo, public)) or "https://hub/me/x",
        upload=lambda *given: calls.append(("upload", *given)),
    )
    return calls


def test_export(exported, capsys):
    assert cli.main(["export", "checkpoints/mine", "--out", "model", "--eval", "a", "--eval", "b"]) == 0
    assert exported == [
        ("export", Path("checkpoints/mine"), Path("model")),
        ("card", Path("exp/global_step_2"), 2, Path("model"), [Path("a"), Path("b")]),
    ]
    assert capsys.readouterr().out == "model: model\n"


def test_export_of_the_best(exported, monkeypatch):
    monkeypatch.setattr(checkpoints, "best_folder", lambda experiment: experiment / "best_step_2")
    assert cli.main(["export", "mine", "--best", "--out", "model"]) == 0
    assert exported[0] == ("export", Path("mine/best_step_2"), Path("model"))


@pytest.mark.parametrize("public", [False, True])
def test_export_asks_the_hub_before_and_uploads_at_the_end(exported, capsys, public):
    assert cli.main(["export", "mine", "--out", "model", "--push", "me/x", *["--public"] * public]) == 0
    assert [name for name, *_ in exported] == ["open", "export", "card", "upload"]
    assert exported[0] == ("open", "me/x", public) and exported[-1] == ("upload", Path("model"), "me/x")
    assert capsys.readouterr().out == "model: model\nuploaded to https://hub/me/x\n"
    assert cli.main(["export", "mine", "--out", "model", "--public"]) == 1
    assert "give --push" in capsys.readouterr().err


def test_report_writes_a_page_and_prints_its_numbers(machine, engine, capsys):
    for name in ("a", "b"):
        assert cli.main(["eval", "--model", "m", "--out", name, "--benchmark", str(write_pairs(machine)), "--json"]) == 0
    capsys.readouterr()
    assert cli.main(["report", "b", "--against", "a", "--out", "page.html", "--svg", "chart.svg"]) == 0
    out = capsys.readouterr().out
    assert "Critic accuracy" in out and out.endswith("report: page.html\n")
    assert "<svg" in Path("chart.svg").read_text() and "Critic accuracy" in Path("page.html").read_text()
    assert cli.main(["report", "b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sets"][0]["metrics"]["trained"]["critic"]["accuracy"]["value"] == 0.5
    assert Path("b/report.html").is_file()


def test_score_computes_the_numbers_of_a_run_again(machine, engine, capsys):
    assert cli.main(["eval", "--model", "m", "--out", "out", "--benchmark", str(write_pairs(machine)), "--json"]) == 0
    (written,) = json.loads(capsys.readouterr().out)
    Path("out/mine/metrics.json").unlink()
    assert cli.main(["score", "out", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [written]
    assert cli.main(["score", "out", "--benchmark", "pairs"]) == 1
    assert "a run folder knows its benchmark" in capsys.readouterr().err
    assert cli.main(["score", "out/mine/judgements.jsonl"]) == 1
    assert "give its benchmark with --benchmark" in capsys.readouterr().err


def test_compare_names_what_is_only_on_one_side(machine, engine, capsys):
    mine, yours = str(write_pairs(machine)), str(write_pairs(machine, "yours"))
    assert cli.main(["eval", "--model", "m", "--out", "a", "--benchmark", mine, "--json"]) == 0
    assert cli.main(["eval", "--model", "m", "--out", "b", "--benchmark", mine, "--benchmark", yours, "--json"]) == 0
    capsys.readouterr()
    assert cli.main(["compare", "a", "b", "--json"]) == 0
    out, err = capsys.readouterr()
    assert [comparison["what"] for comparison in json.loads(out)] == ["mine"]
    assert "only in one of the two folders, not compared: yours" in err


# Errors


@pytest.mark.parametrize(
    "error, status, said",
    [
        (ValueError("pairs.jsonl:3:\n  no key"), 1, "critic-r1: pairs.jsonl:3: no key"),
        (FileNotFoundError(2, "No such file or directory", "x.json"), 1, "critic-r1: x.json: No such file or directory"),
        (FileNotFoundError("x.parquet: no such data file"), 1, "critic-r1: x.parquet: no such data file"),
        (OSError(), 1, "critic-r1: OSError"),
        (ModuleNotFoundError("No module named 'vllm'"), 1, "critic-r1: No module named 'vllm'; install what is missing with `make setup`"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_errors_are_one_line(machine, fake, monkeypatch, capsys, error, status, said):
    def fail(*arguments):
        raise error

    fake("training.export", export=fail)
    assert cli.main(["export", "a", "--out", "b"]) == status
    assert capsys.readouterr().err.strip() == said
    if status == 1:
        os.environ[cli.DEBUG] = "1"
        with pytest.raises(type(error)):
            cli.main(["export", "a", "--out", "b"])


def test_our_own_mistakes_are_not_hidden(machine, fake):
    fake("training.export", export=lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["export", "a", "--out", "b"])


# Judging


def test_eval_shows_each_benchmark_and_all_of_them(machine, engine, capsys):
    words = [
        "eval",
        "--model",
        "m",
        "--out",
        "out",
        "--benchmark",
        str(write_pairs(machine)),
        "--benchmark",
        str(write_pairs(machine, "yours")),
    ]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    for text in ("mine: 4 items", "yours: 4 items", "longer", "position consistency", "consistent", "critic accuracy"):
        assert text in out
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ["mine", "yours"]
    assert len(engine.asked) == 16


def test_eval_for_programs(machine, engine, capsys):
    assert cli.main(["eval", "--model", "m", "--out", "out", "--benchmark", str(write_pairs(machine)), "--json"]) == 0
    (score,) = json.loads(capsys.readouterr().out)
    assert (score["official"]["overall"], score["strict"]["overall"]) == (0.5, 0.0)
    assert json.loads((machine / "out/mine/metrics.json").read_text()) == score


@pytest.mark.parametrize(
    ("words", "temperature"),
    [([], 0.0), (["--repeats", "3"], 1.0), (["--repeats", "3", "--temperature", "0.5"], 0.5), (["--temperature", "0.2"], 0.2)],
)
def test_eval_samples_only_when_it_repeats_or_is_told(machine, engine, words, temperature):
    assert cli.main(["eval", "--model", "m", "--out", "out", "--benchmark", str(write_pairs(machine)), "--json", *words]) == 0
    assert {request.sampling.temperature for request in engine.asked} == {temperature}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["eval", "--benchmark", "nonsense", "--out", "o"], "benchmark 'nonsense': none of"),
        (["eval", "--benchmark", "mine.jsonl", "--out", "o"], "--model is missing"),
        (["eval", "--benchmark", "mmrb2:/nowhere", "--out", "o", "--model", "m"], "/nowhere: no such file or folder"),
        (["eval", "--benchmark", "mine.jsonl", "--out", "o", "--model", "/no/model"], "--model /no/model: neither a folder"),
        (["eval", "--benchmark", "vl_rewardbench", "--out", "o", "--model", "m", "--template", "none"], "prompt 'none': no such template"),
        (["eval", "--benchmark", "mmrb2", "--out", "o", "--model", "m", "--repeats", "2", "--temperature", "0"], "are all the same"),
        (["judge", "--image", "none.png", "--question", "q", "--response", "a", "--response", "b"], "none.png: no such image file"),
        (["judge", "--image", "none.png", "--question", "q", "--response", "a"], "--response is given 1 time(s)"),
    ],
)
def test_judging_is_refused_before_the_model_is_loaded(machine, capsys, words, said):
    write_pairs(machine)
    assert cli.main(words) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("body", ["[]", '{"secret": ', '{"secret": NaN}', "secret", "[" * 100_000])
def test_a_body_that_is_none_is_refused_and_not_shown(machine, capsys, body):
    with pytest.raises(SystemExit):
        cli.main(["eval", "--benchmark", "mmrb2", "--out", "o", "--base-url", "http://h/v1", "--extra-body", body])
    said = capsys.readouterr().err
    assert "not a JSON object" in said and "secret" not in said


def test_config_json_holds_no_secret_of_a_body(machine, fake):
    fake("engines.openai_client", OpenAIEngine=lambda url, model, **options: options["body"])
    words = ["--base-url", "http://h/v1", "--extra-body", '{"api_key": "abc", "top_k": 5}']
    sent, facts = flags.open_engine(cli.parse(["eval", "--benchmark", "mmrb2", "--out", "o", *words]))
    assert sent == {"api_key": "abc", "top_k": 5}
    assert facts == {"kind": "openai", "body": {"api_key": "***", "top_k": 5}}


@pytest.mark.parametrize(
    ("words", "gpus", "made"),
    [
        (["--model", "m"], 0, ("VllmEngine", "m", 1)),
        (["--model", "m"], 1, ("VllmEngine", "m", 1)),
        (["--model", "m"], 8, ("EnginePool", 8, "m", 1)),
        (["--model", "m", "--tensor-parallel-size", "2"], 8, ("EnginePool", 4, "m", 2)),
        (["--model", "m", "--tensor-parallel-size", "8"], 8, ("VllmEngine", "m", 8)),
        (["--model", "m", "--data-parallel-size", "2"], 0, ("EnginePool", 2, "m", 1)),
        (["--base-url", "http://h/v1", "--model", "m"], 8, ("OpenAIEngine", "http://h/v1", "m")),
    ],
)
def test_which_engine(machine, monkeypatch, fake, words, gpus, made):
    monkeypatch.setattr(devices, "gpu_count", lambda: gpus)
    monkeypatch.setattr("critic_r1_verl.hub.fetch", lambda name, what: Path(name))
    fake("engines.vllm", VllmEngine=lambda model, max_model_len, tensor_parallel_size: ("VllmEngine", model, tensor_parallel_size))
    fake(
        "engines.pool",
        EnginePool=lambda count, model, max_model_len, tensor_parallel_size: ("EnginePool", count, model, tensor_parallel_size),
    )
    fake("engines.openai_client", OpenAIEngine=lambda url, model, **options: ("OpenAIEngine", url, model))
    arguments = cli.parse(["eval", "--benchmark", "mmrb2", "--out", "o", *words])
    assert flags.open_engine(arguments)[0] == made


def test_a_template_that_opens_the_thought_is_a_setting_of_the_run(machine, monkeypatch, fake, scripted, capsys):
    """A model in this process says so by its template, a server by a flag."""
    model = scripted(lambda *_: "The first is right.</think> \\boxed{1}")
    (machine / "chat_template.jinja").write_text("{{ messages[0].role }}<think>")
    monkeypatch.setattr("critic_r1_verl.hub.fetch", lambda name, what: machine)
    monkeypatch.setattr(devices, "gpu_count", lambda: 1)
    fake("engines.vllm", VllmEngine=lambda model_name, **options: model)
    fake("engines.pool", EnginePool=None)
    fake("engines.openai_client", OpenAIEngine=lambda url, model_name, **options: model)
    words = ["eval", "--benchmark", str(write_pairs(machine)), "--model", "m"]
    server = [*words, "--base-url", "http://h/v1"]
    for out, command in (("here", words), ("told", [*server, "--thought-opened"]), ("untold", server)):
        assert cli.main([*command, "--out", out]) == 0
        judge = json.loads(Path(out, "mine/config.json").read_text())["judge"]
        texts = {json.loads(line)["text"] for line in Path(out, "mine/judgements.jsonl").read_text().splitlines()}
        assert judge["engine"].get("thought_opened", False) == (out != "untold")
        assert texts == {"<think>" * (out != "untold") + "The first is right.</think> \\boxed{1}"}
    capsys.readouterr()
    assert cli.main([*server, "--out", "told"]) == 1
    assert "thought_opened" in capsys.readouterr().err
    assert cli.main([*words, "--thought-opened", "--out", "other"]) == 1
    assert "--thought-opened is for --base-url" in capsys.readouterr().err
    (machine / "chat_template.jinja").write_text("{% for %}")
    assert cli.main([*words, "--out", "other"]) == 1
    assert "--model m: its chat template cannot be rendered: TemplateSyntaxError" in capsys.readouterr().err


def test_judge_one_pair(machine, engine, capsys):
    write_pairs(machine)
    words = ["judge", "--model", "m", "--image", "images/red.png", "--question", "Colour?", "--response", "red", "--response", "blue"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "The first is right." in out and "undecided" in out
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["preferred"] is None
