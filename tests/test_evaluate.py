# SPDX-License-Identifier: Apache-2.0
"""Benchmarks judged by a scripted model: what is written, what a killed run finds again, what may not be mixed."""

import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image as Picture

from critic_r1_verl import evaluate
from critic_r1_verl.engines.base import Completion, Sampling
from critic_r1_verl.evaluate import Place, Settings
from critic_r1_verl.images import READING
from critic_r1_verl.records import Image, PairRecord, write_jsonl
from critic_r1_verl.report import terminal
from critic_r1_verl.scoring.compare import compare_paths
from critic_r1_verl.scoring.run import Metrics, Run, metrics
from critic_r1_verl.scoring.score import score_file

GREEDY = Settings(Sampling(8), Sampling(8))


EIGHT = Sampling(8)


def settings(judging: Sampling = EIGHT, **more) -> Settings:
    return Settings(judging, Sampling(8), **more)


def prefers_good(prompt: str, _: int) -> str:
    return f"<think>looking</think> \\boxed{{{1 if prompt.index('good') < prompt.index('bad') else 2}}}"


def prefers_bad(prompt: str, _: int) -> str:
    return f"<think>looking</think> \\boxed{{{2 if prompt.index('good') < prompt.index('bad') else 1}}}"


def pairs_file(path: Path, count: int = 6, preferred: str = "1") -> Path:
    import hashlib

    (path.parent / "images").mkdir(parents=True, exist_ok=True)
    Picture.new("RGB", (28, 28), "red").save(path.parent / "images" / "red.png")
    sha = hashlib.sha256((path.parent / "images" / "red.png").read_bytes()).hexdigest()
    image = Image(path="images/red.png", sha256=sha)
    write_jsonl(
        path,
        [
            PairRecord(images=(image,), question=f"Q{n}?", response_1=f"good {n}", response_2=f"bad {n}", preferred=preferred, source="t")
            for n in range(count)
        ],
    )
    return path


def test_what_a_server_refuses_is_wrong_and_counted_apart(scripted, tmp_path: Path) -> None:
    def reply(prompt: str, sample: int) -> Completion:
        if "Q0?" in prompt:
            return Completion("Answer 1 is better", end="refused")
        return Completion(prefers_good(prompt, sample), model="stand-in" if "Q1?" in prompt else "")

    found = run(scripted(reply), pairs_file(tmp_path / "mine.jsonl"), tmp_path / "out", settings(max_refused=0.2))
    critic = found["critic"]
    assert critic["strict"]["value"] == critic["accuracy"]["value"] == pytest.approx(5 / 6)
    assert critic["unparsed/refused"]["value"] == pytest.approx(1 / 6)
    assert critic["unparsed/missing"]["value"] == 0 and critic["unparsed/empty"] is None
    assert "asked for scripted; the judgements name scripted (10), stand-in (2)" in found["notes"]
    with pytest.raises(ValueError, match="refused: Answer 1 is better"):
        evaluate.judge_one(scripted(lambda *_: reply("Q0?", 0)), [tmp_path / "images" / "red.png"], "Q", ("good", "bad"), settings())


def run(model, file: Path, out: Path, settings: Settings = GREEDY, engine: dict | None = None) -> Metrics:
    (place,) = evaluate.places([str(file)], None, out)
    with evaluate.prepared(place, settings.limit):
        return evaluate.evaluate(model, place, settings, engine or {"kind": "scripted"})


def test_a_benchmark_is_judged_and_scored(scripted, tmp_path: Path) -> None:
    file = pairs_file(tmp_path / "mine.jsonl")
    found = run(scripted(prefers_good), file, tmp_path / "out")
    folder = tmp_path / "out" / "mine"
    assert found["official"]["overall"] == found["strict"]["overall"] == found["critic"]["accuracy"]["value"] == 1.0
    assert (found["model"], found["policy"]) == ("scripted", None)
    assert json.loads((folder / "metrics.json").read_text()) == found == metrics(Run(folder))
    assert score_file(folder / "judgements.jsonl", "pairs") | {"name": "mine", "model": "scripted"} == found
    judge = json.loads((folder / "config.json").read_text())["judge"]
    assert (judge["model"], judge["template"]["name"], judge["sampling"]["max_tokens"]) == ("scripted", "critic_no_tie", 8)


@pytest.mark.parametrize(
    ("preferred", "template", "name"), [("1", "", "critic_no_tie"), ("tie", "", "critic"), ("1", "critic_short", "critic_short")]
)
def test_the_tie_option_is_offered_where_there_are_ties(scripted, tmp_path: Path, preferred: str, template: str, name: str) -> None:
    run(scripted(prefers_good), pairs_file(tmp_path / "mine.jsonl", preferred=preferred), tmp_path / "out", settings(template=template))
    assert json.loads((tmp_path / "out/mine/config.json").read_text())["judge"]["template"]["name"] == name


def test_a_killed_run_ends_with_the_same_files(scripted, tmp_path: Path) -> None:
    file = pairs_file(tmp_path / "mine.jsonl")
    run(scripted(prefers_good), file, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(scripted(prefers_good, die_after=5), file, tmp_path / "cut")
    rest = scripted(prefers_good)
    run(rest, file, tmp_path / "cut")
    assert len(rest.asked) == 7
    for name in ("judgements.jsonl", "records.jsonl", "config.json", "metrics.json"):
        assert (tmp_path / "cut/mine" / name).read_bytes() == (tmp_path / "whole/mine" / name).read_bytes()


class Lengthy:
    """A model that writes 75,000 characters, one request after the other."""

    name = "lengthy"
    left_out = ()

    def generate(self, requests):
        for place, request in enumerate(requests):
            yield place, [Completion(f"<think>{'x' * 75_000}</think> {prefers_good(request.prompt, 0)}", 9, 5)]


def test_memory_holds_no_texts(tmp_path: Path) -> None:
    few, many = (pairs_file(tmp_path / f"{count}.jsonl", count=count) for count in (10, 60))
    run(Lengthy(), few, tmp_path / "out")
    tracemalloc.start()
    try:
        run(Lengthy(), many, tmp_path / "out")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The texts are 9 MB; what is held of a pair is 2.4 KiB.
    assert peak < 2_000_000


def test_what_the_server_refuses_of_the_sampling_is_recorded(scripted, tmp_path: Path) -> None:
    model, file = scripted(prefers_good, die_after=5), pairs_file(tmp_path / "mine.jsonl")
    model.left_out = {"temperature", "seed"}
    with pytest.raises(KeyboardInterrupt):
        run(model, file, tmp_path)
    run(scripted(prefers_good), file, tmp_path)
    assert json.loads((tmp_path / "mine/config.json").read_text())["left_out"] == ["seed", "temperature"]


def other_model(model) -> dict:
    model.name = "another"
    return {}


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (other_model, "judge.model"),
        (lambda model: {"engine": {"kind": "endpoint"}}, "judge.engine"),
        (lambda model: {"settings": settings(Sampling(9))}, "judge.sampling"),
        (lambda model: {"settings": settings(Sampling(8, temperature=1.0), repeats=2)}, "judge.sampling"),
        (lambda model: {"settings": settings(template="critic_short")}, "judge.template"),
        (lambda model: {"settings": settings(limit=3)}, "source.limit"),
    ],
)
def test_another_run_does_not_go_on_with_this_one(scripted, tmp_path: Path, change: Callable, key: str) -> None:
    file = pairs_file(tmp_path / "mine.jsonl")
    run(scripted(prefers_good), file, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out/mine").iterdir() if path.is_file()}
    model = scripted(prefers_good)
    options = change(model)
    with pytest.raises(ValueError, match=rf"config\.json: made with {re.escape(key)} .* give another --out"):
        run(model, file, tmp_path / "out", **options)
    assert not model.asked
    assert {path: path.read_bytes() for path in before} == before


def test_an_evaluation_with_another_reading_of_images_does_not_go_on(scripted, tmp_path: Path) -> None:
    """Folders written before the reading had a version do not say one."""
    file = pairs_file(tmp_path / "mine.jsonl")
    run(scripted(prefers_good), file, tmp_path / "out")
    path = tmp_path / "out/mine/config.json"
    config = json.loads(path.read_text())
    assert config["source"].pop("image_reading") == READING
    path.write_text(json.dumps(config))
    model = scripted(prefers_good)
    with pytest.raises(ValueError, match=rf"made with version 1 of reading images, now it is {READING}: .* give another --out"):
        run(model, file, tmp_path / "out")
    assert not model.asked


def test_a_comparison_says_that_images_were_read_in_two_ways(scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = pairs_file(tmp_path / "mine.jsonl")
    for folder in ("before", "after"):
        run(scripted(prefers_good), file, tmp_path / folder)
    compare_paths(tmp_path / "before", tmp_path / "after")
    assert "images were read" not in capsys.readouterr().err
    path = tmp_path / "before/mine/config.json"
    path.write_text(path.read_text().replace(f'"image_reading": {READING}', '"image_reading": 1'))
    compare_paths(tmp_path / "before", tmp_path / "after")
    assert f"mine: images were read by version 1 for a, by version {READING} for b" in capsys.readouterr().err


def test_a_benchmark_that_changed_does_not_go_on(scripted, tmp_path: Path) -> None:
    run(scripted(prefers_good), pairs_file(tmp_path / "mine.jsonl"), tmp_path / "out")
    with pytest.raises(ValueError, match="the records have changed since"):
        run(scripted(prefers_good), pairs_file(tmp_path / "mine.jsonl", count=7), tmp_path / "out")


@pytest.mark.parametrize("text", ["{half", "7", "[1]"])
def test_a_config_that_was_changed_by_hand_is_named(scripted, tmp_path: Path, text: str) -> None:
    file = pairs_file(tmp_path / "mine.jsonl")
    run(scripted(prefers_good), file, tmp_path / "out")
    (tmp_path / "out/mine/config.json").write_text(text)
    with pytest.raises(ValueError, match=r"mine/config\.json: (cannot be read|not a JSON object).* give another --out"):
        run(scripted(prefers_good), file, tmp_path / "out")


def test_two_runs_do_not_write_into_one_folder(scripted, tmp_path: Path) -> None:
    file = pairs_file(tmp_path / "mine.jsonl")

    def start_another(prompt: str, sample: int) -> str:
        with pytest.raises(ValueError, match="out/mine: another process writes into this folder; wait until it ends"):
            run(scripted(prefers_good), file, tmp_path / "out")
        return prefers_good(prompt, sample)

    run(scripted(start_another), file, tmp_path / "out")
    assert run(scripted(prefers_good), file, tmp_path / "out")["strict"]["overall"] == 1.0


def test_a_limit_draws_by_hash(scripted, tmp_path: Path) -> None:
    file = pairs_file(tmp_path / "mine.jsonl", count=20)
    score = run(scripted(prefers_good), file, tmp_path / "out", settings(limit=4))
    assert score["counts"]["items"] == 4
    judged = [json.loads(line)["pair_id"] for line in (tmp_path / "out/mine/judgements.jsonl").read_text().splitlines()]
    everyone = sorted(json.loads(line)["question"] for line in file.read_text().splitlines())
    assert len(everyone) == 20 and judged == sorted(judged)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["vl_rewardbench", "VL-RewardBench:/data/x"], "two sets would be written to"),
        (["nonsense"], "benchmark 'nonsense': none of"),
        (["gone.jsonl"], "no such file of records"),
    ],
)
def test_names_are_checked_before_anything_is_loaded(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate.places(names, None, tmp_path)


def test_places(tmp_path: Path) -> None:
    file = pairs_file(tmp_path / "mine.jsonl")
    assert evaluate.places([str(file), "VL-RewardBench:/data/x.jsonl", "mmrb2"], None, Path("out")) == [
        Place("pairs", str(file), Run(Path("out/mine"))),
        Place("VL-RewardBench", "/data/x.jsonl", Run(Path("out/vl_rewardbench"))),
        Place("mmrb2", "", Run(Path("out/mmrb2"))),
    ]
    with pytest.raises(ValueError, match=r"nothing to measure: give --data DIR .* or --benchmark NAME"):
        evaluate.places([], None, Path("out"))


@pytest.mark.parametrize(
    ("reply", "preferred"),
    [
        (prefers_good, "1"),
        (prefers_bad, "2"),
        (lambda *_: "<think>t</think> \\boxed{1}", None),
        (lambda *_: "<think>t</think> \\boxed{tie}", "tie"),
        (lambda *_: "no verdict", None),
    ],
)
def test_one_pair(scripted, tmp_path: Path, capsys: pytest.CaptureFixture[str], reply: Callable, preferred: str | None) -> None:
    model = scripted(reply)
    result = evaluate.judge_one(model, [tmp_path / "a.png", tmp_path / "b.png"], "Which?", ("good [bold]", "bad"), GREEDY)
    assert result["preferred"] == preferred
    assert [line["order"] for line in result["judgements"]] == ["12", "21"]
    assert [request.images for request in model.asked] == [(tmp_path / "a.png", tmp_path / "b.png")] * 2
    assert "or \\boxed{tie}" in model.asked[0].prompt
    terminal.show_judgement(result)
    said = {"1": "response 1 is better", "2": "response 2 is better", "tie": "a tie, in both orders", None: "undecided"}[preferred]
    assert said in capsys.readouterr().out
