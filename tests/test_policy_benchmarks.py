# SPDX-License-Identifier: Apache-2.0
import json
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from critic_r1_verl import cli
from critic_r1_verl.policy_benchmarks import inside, results, run
from critic_r1_verl.report import collect, page
from critic_r1_verl.scoring.compare import compare_paths
from critic_r1_verl.scoring.run import Run, metrics, runs_in

GOLDEN = Path(__file__).parent / "golden" / "lmms_eval"
STAND_IN = Path(__file__).parent / "stand_in" / "lmms_eval_python"
ASKED = {"model": "m", "engine": {"kind": "openai"}, "limit": 0}


def written(folder: Path, edit: Callable[[list[dict]], Any] = list, **changed: Any) -> Run:
    """A run folder with what lmms-eval wrote, its items edited and keys of its results changed."""
    run = Run(folder / "picture_digits")
    into = run.folder / results.FOLDER
    into.mkdir(parents=True)
    items = [json.loads(line) for line in (GOLDEN / results.ITEMS).open()]
    (into / results.ITEMS).write_text("".join(json.dumps(item) + "\n" for item in edit(items) or items))
    content = json.loads((GOLDEN / results.RESULTS).read_text()) | changed
    (into / results.RESULTS).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return run


def test_what_lmms_eval_wrote_becomes_a_run_folder(tmp_path: Path) -> None:
    run = written(tmp_path)
    found = results.bring_in(run, ASKED, 0.2)
    assert found == metrics(run) == json.loads((run.folder / "metrics.json").read_text())
    assert found["benchmark"] == "picture_digits" and found["model"] == "m"
    assert found["counts"]["questions"] == len({question.question_id for question in run.questions}) == 8
    # Each picture is a group of its own, although four questions have the same words.
    assert len({question.group for question in run.questions}) == 8
    # lmms-eval scores the error message of a failed request as an answer, here as right.
    assert found["official"] == {"overall": 0.375, "groups": {"small": 0.75}}
    assert found["policy"]["greedy"]["value"] == 0.25 and found["policy"]["greedy"]["n"] == 8
    assert found["policy"]["refused"]["value"] == 0.125
    graded, failed = found["notes"]
    assert graded == "graded by lmms-eval 0.7.3, metric all"
    assert failed == (
        "1 of 8 requests failed and count as wrong (lmms-eval counts 1 of them as right), for example: "
        "Error code: 400 - no answers about picture 2, Bearer ***"
    )
    refused = run.answers()[2]
    assert (refused.status, refused.answer, refused.correct) == ("refused", None, False)


def test_runs_are_compared_and_reported(tmp_path: Path) -> None:
    def better(items: list[dict]) -> None:
        items[4] |= {"score": 1.0, "answer": "4"}
        items[5] |= {"score": 0.5, "answer": "5 or 6"}

    for name, edit in (("base", list), ("trained", better)):
        results.bring_in(written(tmp_path / name, edit), ASKED, 0.2)
    ((comparison,), others) = compare_paths(tmp_path / "base", tmp_path / "trained")
    greedy = comparison["differences"]["policy"]["greedy"]
    assert others == [] and greedy["difference"]["value"] == pytest.approx(1.5 / 8) and greedy["b"]["n"] == 8
    page.write(collect.collect(tmp_path / "trained", against=tmp_path / "base"), tmp_path / "page.html")
    assert "graded by lmms-eval" in (tmp_path / "page.html").read_text()


def at(number: int, **changed: Any) -> Callable[[list[dict]], None]:
    return lambda items: items[number].update(changed)


@pytest.mark.parametrize(
    ("item", "status", "correct"),
    [
        ({"text": "", "answer": ""}, "empty", False),
        ({"text": 'Error: can only concatenate str (not "NoneType") to str'}, "empty", False),
        ({"text": "<think>on and on", "answer": "", "output_tokens": 16}, "cut_short", False),
        ({"judge_error": "the judge is tired"}, "parsed", False),
        ({"score": 0.5}, "parsed", 0.5),
        ({"score": True}, "parsed", True),
    ],
)
def test_what_counts_as_an_answer(tmp_path: Path, item: dict, status: str, correct: float) -> None:
    run = written(tmp_path, at(0, **item))
    results.bring_in(run, ASKED, 0.2)
    assert (run.answers()[0].status, run.answers()[0].correct) == (status, correct)


def test_notes_say_what_the_numbers_do_not(tmp_path: Path) -> None:
    aggregates = {"all": 0.4, "small": 0.75}
    run = written(tmp_path, lambda items: items[0].update(output_tokens=16, judge_error="tired"), aggregates=aggregates, num_docs=9)
    assert results.bring_in(run, ASKED, 0.2)["notes"][2:] == [
        "1 of 8 answers got no verdict of the judge and count as wrong (lmms-eval counts 1 of them as right), for example: tired",
        "1 of 8 answers may be cut short, as they have 16 tokens, the limit (--max-tokens)",
        "lmms-eval's own aggregate is 40.00 %, the mean of its scores 37.50 %: it weighs the items, such as by category",
        "8 items of the task's 9",
    ]


@pytest.mark.parametrize(
    ("edit", "changed", "said"),
    [
        (at(1, score=37.5), {}, r"items.jsonl:2: key 'score': 37.5 is not in \[0, 1\]"),
        (at(1, score=None), {}, r"items.jsonl:2: key 'score': None"),
        (at(1, score=float("nan")), {}, r"items.jsonl:2: key 'score': nan"),
        (at(1, doc_id=0), {}, r"items.jsonl:2: key 'doc_id': document 0 stands in line 1 too; delete"),
        (at(1, doc_id="x"), {}, r"items.jsonl:2: key 'doc_id'"),
        (at(1, media="x"), {}, r"items.jsonl:2: key 'media'"),
        (at(1, answer=None), {}, r"items.jsonl:2: key 'answer'"),
        (at(1, input_tokens=-1), {}, r"items.jsonl:2: key 'prompt_tokens': -1 is not an integer of 0 or more"),
        (at(1, question="\ud800"), {}, r"items.jsonl:2: key 'question': contains a lone surrogate"),
        (at(1, judge_error=1), {}, r"items.jsonl:2: key 'judge_error'"),
        (at(1, more=1), {}, r"items.jsonl:2: key 'more' is unknown"),
        (lambda items: items[1].pop("target") and None, {}, r"items.jsonl:2: key 'target' is missing"),
        (lambda items: items[:-1], {}, r"items.jsonl: 7 items, results.json says 8"),
        (list, {"task": "mmstar"}, r"results.json: these are results of mmstar, not of picture_digits"),
        (list, {"metric": None}, r"results.json: key 'metric' is None, not str; delete"),
        (list, {"aggregates": {"all": "0.4"}}, r"results.json: key 'aggregates': 'all' is '0.4', not a number"),
        (list, {"sampling": []}, r"results.json: key 'sampling' is \[\], not dict"),
        (
            at(0, text="[LMMS_EVAL_REQUEST_FAILED after 5 retries] too long"),
            {},
            r"2 of 8 requests failed, which is more than 20 %.*too long",
        ),
        (lambda items: [item | {"judge_error": "tired"} for item in items], {}, r"8 of 8 answers got no verdict of the judge.*tired"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, edit: Any, changed: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        results.bring_in(written(tmp_path, edit, **changed), ASKED, 0.2)


def test_files_that_are_cut_or_missing(tmp_path: Path) -> None:
    run = written(tmp_path)
    file = run.folder / results.FOLDER / results.ITEMS
    file.write_text(file.read_text()[:-40])
    with pytest.raises(ValueError, match=r"items.jsonl:8: .*delete"):
        results.is_complete(run, 0.2)
    file.unlink()
    with pytest.raises(ValueError, match=r"items.jsonl: no such file; delete results.json"):
        results.is_complete(run, 0.2)
    (run.folder / results.FOLDER / results.RESULTS).write_text('{"task"')
    with pytest.raises(ValueError, match=r"results.json: cannot be read .*delete it and run the same command again"):
        results.bring_in(run, ASKED, 0.2)


# The command, with a stand-in for lmms-eval's Python


def eval_policy(out: Path, *words: str) -> int:
    server = ("--base-url", "http://localhost:9/v1", "--model", "m")
    return cli.main(["eval-policy", "--lmms-eval", str(STAND_IN), "--out", str(out), "--max-refused", "0.2", *server, *words])


def test_the_command_measures_and_does_not_measure_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--task", "mmstar", "mmmu_val", "--include-path", ".", "--max-tokens", "64", "--system-prompt", "Think.")
    assert eval_policy(tmp_path, *words) == 0
    told_file = tmp_path / "mmstar" / results.FOLDER / "told.json"
    told = json.loads(told_file.read_text())
    assert told["tasks"] == ["mmstar", "mmmu_val"] and told["include"] == [str(Path.cwd())] and told["max_tokens"] == 64
    assert told["model_version"] == "m" and told["base_url"] == "http://localhost:9/v1" and told["system_prompt"] == "Think."
    told_file.unlink()
    assert eval_policy(tmp_path, *words, "--json") == 0
    assert not told_file.exists()
    printed = capsys.readouterr().out
    assert [found["name"] for found in json.loads(printed[printed.rindex("\n[") :])] == ["mmstar", "mmmu_val"]
    assert "requests failed and count as wrong" in printed
    assert eval_policy(tmp_path, "--task", "mmstar", "--max-tokens", "65") == 1
    assert "asked.json: made with max_tokens 64, now it is 65; give another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--task", "unknown"), "lmms-eval: lmms-eval has no task 'unknown'; its log: "),
        (("--task", "deadly"), "lmms-eval ended with status 1: Segmentation fault; its log: "),
        (("--task", "mmstar", "mmstar"), "--task mmstar is given twice"),
        (("--task", "../mmstar"), "--task ../mmstar: not the name of a task"),
        (("--task", "mmstar", "--judge-model", "j"), "--judge-url and --judge-model go together"),
        (("--task", "mmstar", "--judge-model", "j", "--judge-url", "localhost"), "--judge-url localhost: not a URL with http://"),
        (("--task", "mmstar", "--lmms-eval", "nowhere/python"), "`make eval-policy` installs lmms-eval there"),
        (("--task", "mmstar", "--max-refused", "0.1"), "1 of 8 requests failed, which is more than 10 % (--max-refused)"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple, said: str) -> None:
    assert eval_policy(tmp_path, *words) == 1
    assert said in capsys.readouterr().err


def test_a_task_that_fails_does_not_keep_back_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert eval_policy(tmp_path, "--task", "mmstar", "deadly", "mmmu_val") == 1
    assert "Segmentation fault" in capsys.readouterr().err
    assert [run.name for run in runs_in(tmp_path)] == ["mmstar"]


def test_the_judge_has_its_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-model")
    settings = {"model": "m", "tasks": ("t",), "python": STAND_IN}
    assert run._environment(run.Settings(**settings))["OPENAI_API_KEY"] == "none"
    judged = run.Settings(**settings, judge_url="http://j/v1", judge_model="j")
    found = run._environment(judged)
    assert (found["OPENAI_API_URL"], found["MODEL_VERSION"], found["OPENAI_API_KEY"]) == ("http://j/v1", "j", "sk-model")
    monkeypatch.setenv("CRITIC_R1_JUDGE_API_KEY", "sk-judge")
    assert run._environment(judged)["OPENAI_API_KEY"] == "sk-judge"


# Inside lmms-eval


def task(aggregations: dict[str, Callable], values: dict[str, Any]) -> Any:
    return SimpleNamespace(args=None, aggregation=lambda: aggregations, process_results=lambda doc, results: dict(values))


def own_scores(aggregations: dict[str, Callable], values: dict[str, Any]) -> dict[str, float | None]:
    judge: Any = SimpleNamespace(of_item=threading.local())
    return inside.scored(task(aggregations, values), judge)({}, [""])[inside.OWN]["scores"]


def test_the_score_of_an_item_is_the_aggregation_of_it_alone() -> None:
    def takes_away(results: list[dict]) -> float:
        return sum(result.pop("right") for result in results) / len(results)

    def mathvista_aggregate_results(results: list[bool], args: Any) -> float | None:
        return 100.0 if results[0] else None

    def fails(results: list[Any]) -> float:
        raise ZeroDivisionError

    aggregations = {"a": takes_away, "b": mathvista_aggregate_results, "c": fails, "d": lambda results: results, "submission": fails}
    value = {"right": True}
    found = own_scores(aggregations, {"a": value, "b": False, "c": 1, "d": 1, "submission": 1, "other": 1})
    assert found == {"a": 1.0, "b": 0.0, "c": None, "d": None} and value == {"right": True}


def test_the_metric_is_the_first_that_all_items_have() -> None:
    samples = [{inside.OWN: {"scores": scores}} for scores in ({"part": 1.0, "all": 0.0}, {"all": 100.0, "late": 1.0})]
    assert inside.chosen("t", ["part", "all", "late"], samples) == ("all", [0.0, 1.0])
    assert inside.chosen("t", ["late"], samples[1:]) == ("late", [1.0])
    with pytest.raises(ValueError, match=r"t: none of its metrics \(part, late\) gives each of its 2 items a number"):
        inside.chosen("t", ["part", "late"], samples)


def _calls_a_judge() -> None:
    _get_verifier()


def _get_verifier() -> str:
    return "OPENAI_API_KEY"


def _follows_rules() -> None:
    _follows_rules()


def test_a_task_that_wants_a_judge_is_known_by_its_functions() -> None:
    assert inside.asks_judge(_calls_a_judge, set())
    assert not inside.asks_judge(_follows_rules, set())
    assert not inside.asks_judge(None, set())


def test_errors_in_a_line_without_keys() -> None:
    wrapped: Any = RuntimeError("RetryError")
    wrapped.last_attempt = SimpleNamespace(exception=lambda: KeyError("half"))
    assert inside.message(wrapped) == "KeyError: 'half'"
    assert inside.message(SystemExit("a\n b")) == "a b"
    assert inside.hidden("Bearer sk-of-nobody, none", "sk-of-nobody", "none") == "Bearer ***, none"
