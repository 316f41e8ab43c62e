# SPDX-License-Identifier: Apache-2.0
"""Judging with a scripted model: what is asked, what is written, what a killed run finds again."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from critic_r1_verl import prompts
from critic_r1_verl.critics.pairwise import PairwiseCritic
from critic_r1_verl.engines.base import Completion, Sampling
from critic_r1_verl.journal import HOPELESS, Journal
from critic_r1_verl.judge import judge
from critic_r1_verl.lines import Judgement
from critic_r1_verl.records import Image, PairRecord
from critic_r1_verl.verdict import parse_verdict

IMAGE = Image(path="images/a.png", sha256="0" * 64)
CRITIC = PairwiseCritic(prompts.load("critic_short"), Sampling(8))


def pair(number: int, preferred: str = "1") -> PairRecord:
    return PairRecord(
        images=(IMAGE,), question=f"Q{number}?", response_1=f"good {number}", response_2=f"bad {number}", preferred=preferred, source="t"
    )


def prefers_good(prompt: str, _: int) -> str:
    return f"<think>looking</think> \\boxed{{{1 if prompt.index('good') < prompt.index('bad') else 2}}}"


def run_judge(pairs: list[PairRecord], model, out: Path, critic: PairwiseCritic = CRITIC, **options) -> list[Judgement]:
    return list(judge(pairs, model, critic, out, root=Path("/data"), **options))


@pytest.mark.parametrize(
    ("reply", "correct", "status"),
    [
        (prefers_good, [True, True], "parsed"),
        (lambda *_: "<think>x</think> \\boxed{1}", [True, False], "parsed"),
        (lambda *_: "no idea", [False, False], "missing"),
        (lambda *_: "<think>never closed", [False, False], "unclosed"),
    ],
)
def test_each_pair_is_judged_in_both_orders(scripted, tmp_path: Path, reply: Callable, correct: list[bool], status: str) -> None:
    lines = run_judge([pair(0)], scripted(reply), tmp_path / "j.jsonl")
    assert [line.order for line in lines] == ["12", "21"]
    assert [line.preferred for line in lines] == ["1", "2"]
    assert [line.correct for line in lines] == correct
    assert {line.status for line in lines} == {status}
    assert [json.loads(text) for text in (tmp_path / "j.jsonl").read_text().splitlines()] == [asdict(line) for line in lines]


def test_a_pair_without_an_image_is_judged_like_any_other(scripted, tmp_path: Path) -> None:
    model = scripted(prefers_good)
    assert [line.correct for line in run_judge([replace(pair(0), images=(), group="")], model, tmp_path / "j.jsonl")] == [True, True]
    assert {(request.images, "<image>" in request.prompt, *map(type, request.parts())) for request in model.asked} == {((), False, str)}


@pytest.mark.parametrize(
    ("text", "end", "choice", "status"),
    [
        ("<think>x</think> \\boxed{1}", "complete", "1", "parsed"),
        ("<think>x</think> \\boxed{1} as", "cut_short", "1", "parsed"),
        ("<think>x", "cut_short", None, "cut_short"),
        ("\\boxed{1} is not for me to say", "refused", None, "refused"),
        ("", "empty", None, "empty"),
        ("", "tool_call", None, "tool_call"),
    ],
)
def test_a_completion_without_a_verdict_is_recorded_as_what_it_is(text: str, end: str, choice: str | None, status: str) -> None:
    line = CRITIC.judgement(pair(0), "12", 0, Completion(text, end=end, model="other"), "asked")
    assert (line.choice, line.status, line.correct, line.text, line.model) == (choice, status, choice == "1", text, "other")


def refusing(*numbers: int) -> Callable:
    refused = Completion("status 400: \\boxed{1} filtered", end="refused")
    return lambda prompt, sample: refused if any(f"Q{number}?" in prompt for number in numbers) else prefers_good(prompt, sample)


def test_a_few_refusals_are_recorded_when_all_else_is_done(scripted, tmp_path: Path) -> None:
    pairs, out = [pair(number) for number in range(10)], tmp_path / "j.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_judge(pairs, scripted(refusing(0), die_after=6), out)
    assert len(out.read_text().splitlines()) == 4
    lines = run_judge(pairs, scripted(refusing(0)), out)
    assert [line.pair_id for line in lines if line.status == "refused"] == [pair(0).pair_id] * 2
    resumed = scripted(refusing(0))
    assert run_judge(pairs, resumed, out) == lines and not resumed.asked


def test_more_refusals_end_the_run_and_are_asked_for_again(scripted, tmp_path: Path) -> None:
    pairs, out = [pair(number) for number in range(10)], tmp_path / "j.jsonl"
    with pytest.raises(ValueError, match=r"4 of 20 requests were refused, .* 10 % \(--max-refused\), for example: status 400: .*filtered"):
        run_judge(pairs, scripted(refusing(0, 1)), out)
    again = scripted(refusing(0))
    assert len(run_judge(pairs, again, out)) == 20
    assert len(again.asked) == 4


def test_all_may_be_refused_if_the_user_says_so(scripted, tmp_path: Path) -> None:
    pairs = [pair(number) for number in range(HOPELESS)]
    lines = run_judge(pairs, scripted(refusing(*range(HOPELESS))), tmp_path / "j.jsonl", max_refused=1.0)
    assert [line.status for line in lines] == ["refused"] * 2 * HOPELESS


def test_a_server_that_refuses_everything_ends_the_run_soon(scripted, tmp_path: Path) -> None:
    model = scripted(refusing(*range(50)))
    with pytest.raises(ValueError, match=f"{HOPELESS} of {HOPELESS} requests were refused"):
        run_judge([pair(number) for number in range(50)], model, tmp_path / "j.jsonl")
    assert len(model.asked) == HOPELESS


def test_repeats_have_seeds_of_their_own_and_stand_beside_each_other(scripted, tmp_path: Path) -> None:
    model = scripted(prefers_good)
    critic = PairwiseCritic(CRITIC.template, Sampling(8, temperature=0.7, seed=5), repeats=3)
    lines = run_judge([pair(0), pair(1)], model, tmp_path / "j.jsonl", critic)
    assert sorted((line.order, line.repeat) for line in lines) == sorted(
        [("12", 0), ("12", 1), ("12", 2), ("21", 0), ("21", 1), ("21", 2)] * 2
    )
    assert [request.sampling.seed for request in model.asked] == [5, 5, 6, 6, 7, 7] * 2
    assert model.asked[1].name == f"pair {pair(0).pair_id} in order 21"
    assert ["Q0" in request.prompt for request in model.asked] == [True] * 6 + [False] * 6


@pytest.mark.parametrize(("repeats", "message"), [(0, "give 1 or more"), (2, "2 repeats at temperature 0 are all the same")])
def test_repeats_that_make_no_sense(repeats: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairwiseCritic(CRITIC.template, Sampling(8), repeats)


def test_a_pair_that_stands_there_twice_is_judged_once(scripted, tmp_path: Path) -> None:
    model = scripted(prefers_good)
    assert len(run_judge([pair(0), pair(1), pair(0)], model, tmp_path / "j.jsonl")) == 4
    assert len(model.asked) == 4


def test_another_models_marks_of_thought_become_ours(scripted, tmp_path: Path) -> None:
    critic = PairwiseCritic(CRITIC.template, Sampling(8), think_tags=("[THINK]", "[/THINK]"))
    lines = run_judge([pair(0)], scripted(lambda *_: "[THINK]\\boxed{2}[/THINK] \\boxed{1}"), tmp_path / "j.jsonl", critic)
    assert [(line.choice, line.text) for line in lines] == [("1", "<think>\\boxed{2}</think> \\boxed{1}")] * 2


@pytest.mark.parametrize(
    ("text", "stored", "status"),
    [
        ("It is red.</think> \\boxed{1}", "<think>It is red.</think> \\boxed{1}", "parsed"),
        # Cut short within the thought: what stands in it is no verdict.
        ("Not \\boxed{1}", "<think>Not \\boxed{1}", "unclosed"),
        # A server that returns the tag.
        ("<think>It is red.</think> \\boxed{1}", "<think>It is red.</think> \\boxed{1}", "parsed"),
    ],
)
def test_a_thought_that_the_prompt_opened(scripted, tmp_path: Path, text: str, stored: str, status: str) -> None:
    critic = PairwiseCritic(CRITIC.template, Sampling(8), thought_opened=True)
    lines = run_judge([pair(0)], scripted(lambda *_: text), tmp_path / "j.jsonl", critic)
    assert [(line.text, line.status) for line in lines] == [(stored, status)] * 2
    assert parse_verdict(stored).format == (status == "parsed")


@pytest.mark.parametrize("order_of_arrival", [list, lambda places: places[::-1]], ids=["in order", "backwards"])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(scripted, tmp_path: Path, order_of_arrival: Callable) -> None:
    pairs = [pair(number) for number in range(5)]
    run_judge(pairs, scripted(prefers_good), tmp_path / "whole.jsonl")
    with pytest.raises(KeyboardInterrupt):
        run_judge(pairs, scripted(prefers_good, die_after=6, arrival=order_of_arrival), tmp_path / "cut.jsonl")
    assert len((tmp_path / "cut.jsonl").read_text().splitlines()) == 6
    with (tmp_path / "cut.jsonl").open("a") as stream:
        stream.write('{"pair_id": "half a li')
    rest = scripted(prefers_good)
    run_judge(pairs, rest, tmp_path / "cut.jsonl")
    assert len(rest.asked) == 4
    assert (tmp_path / "cut.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_full_disk_is_named_and_what_is_done_is_kept(scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "j.jsonl"
    pairs = [pair(0), pair(1)]
    run_judge(pairs[:1], scripted(prefers_good), out)
    opening = Path.open

    def full(self: Path, mode: str = "r", **options):
        return opening(Path("/dev/full") if self == out and mode == "ab" else self, mode, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        run_judge(pairs, scripted(prefers_good), out)
    assert caught.value.filename == str(out)
    monkeypatch.undo()
    assert len(out.read_text().splitlines()) == 2


def test_a_foreign_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "j.jsonl").write_text('{"other": 1}\n')
    with pytest.raises(ValueError, match=r"j\.jsonl:1: key 'pair_id' is missing; .*; delete the file to start again"):
        Journal(tmp_path / "j.jsonl", Judgement)


def test_a_line_that_was_written_twice_counts_once(scripted, tmp_path: Path) -> None:
    """A kill in the middle of one write may leave some of its lines whole; their work is done again."""
    out = tmp_path / "j.jsonl"
    first = run_judge([pair(0)], scripted(prefers_good), out)
    journal = Journal(out, Judgement)
    journal.append(first[:1])
    assert [line.key for line in journal] == [first[1].key, first[0].key]
    journal.finish()
    assert list(Journal(out, Judgement)) == first
