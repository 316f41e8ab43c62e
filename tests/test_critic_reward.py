# SPDX-License-Identifier: Apache-2.0
"""What a critic pays the responses to a question, with a scripted critic that sees what the real one would."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from critic_r1_verl import prompts
from critic_r1_verl.critic_reward import judging, matches
from critic_r1_verl.critic_reward.matches import Asked, Match, Response
from critic_r1_verl.records import PairRecord, QuestionRecord, write_jsonl

QUESTION = QuestionRecord(images=(), question="Which digit?", answer="7", source="demo")
OTHER = QuestionRecord(images=(), question="Which sum?", answer="9", source="demo")
SETTINGS = {
    "verdicts": "critic",
    "base_url": "http://localhost:1/v1",
    "model": "critic",
    "opponents": 9,
    "reference": "",
    "template": "",
    "thought_opened": False,
    "max_tokens": 8,
    "temperature": 0,
    "max_unparsed": 0.5,
    "max_concurrency": 2,
    "max_retries": 0,
    "timeout_seconds": 1,
    "seed": 1,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with two questions, and a pair, which is not among the questions."""
    pair = PairRecord(images=(), question="Which?", response_1="a", response_2="b", preferred="1", source="demo")
    write_jsonl(tmp_path / "records.jsonl", [QUESTION, pair, OTHER])
    template = prompts.load("critic_short")
    stated = {"name": template.name, "text": template.text, "sha": template.sha}
    (tmp_path / "manifest.json").write_text(json.dumps({"corpora": {}, "templates": {"pair": stated, "question": stated}}))
    return tmp_path


def box(choice: str) -> str:
    return f"<think>.</think>\\boxed{{{choice}}}"


def seen(prompt: str) -> tuple[str, str]:
    """The two responses in the order in which the critic sees them."""
    found = re.search("Response 1: (.*)\nResponse 2: (.*)\n", prompt)
    assert found
    return found[1], found[2]


def longest(prompt: str, _: int) -> str:
    first, second = seen(prompt)
    return box("tie" if len(first) == len(second) else "1" if len(first) > len(second) else "2")


def prefers(*ranking: str) -> Callable[[str, int], str]:
    """A critic that prefers what stands first in a ranking."""
    return lambda prompt, _: box("1" if ranking.index(seen(prompt)[0]) < ranking.index(seen(prompt)[1]) else "2")


def responses(*texts: str, question: QuestionRecord = QUESTION, right: str = "", unreadable: str = "") -> list[Response]:
    return [Response(question_id=question.question_id, text=text, readable=text != unreadable, right=text == right) for text in texts]


@pytest.fixture
def critic(folder: Path, scripted) -> Callable[..., judging.CriticReward]:
    def make(reply: Callable[[str, int], Any], **settings: Any) -> judging.CriticReward:
        return judging.load(judging.read(SETTINGS | settings), scripted(reply), str(folder / "train.parquet"))

    return make


@pytest.mark.parametrize(
    ("texts", "opponents", "expected"),
    [
        ("", 1, []),
        ("a", 2, []),
        ("aaa", 2, []),
        ("ab", 1, ["ab"]),
        ("ab", 5, ["ab"]),
        ("abc", 1, ["ab", "bc", "ca"]),
        ("abcd", 1, ["ab", "bc", "cd", "da"]),
        ("abcd", 2, ["ab", "bc", "cd", "da", "ac", "bd"]),
        ("abcabc", 9, ["ab", "bc", "ca"]),
    ],
)
def test_who_meets_whom(texts: str, opponents: int, expected: list[str]) -> None:
    assert ["".join(pair) for pair in matches.pairs(texts, opponents)] == expected


def test_the_number_of_comparisons_is_bounded_and_each_different_response_has_one() -> None:
    for num in range(2, 12):
        for opponents in range(1, 8):
            found = matches.pairs(map(str, range(num)), opponents)
            assert len({frozenset(pair) for pair in found}) == len(found) == min(num * opponents, num * (num - 1) // 2)
            met = [sum(str(text) in pair for pair in found) for text in range(num)]
            assert min(met) >= min(2 * opponents, num - 1) and max(met) <= 2 * opponents


@pytest.mark.parametrize(
    ("choice", "exchanged", "margin", "consistent"),
    [
        ("1", "2", 1, True),
        ("2", "1", -1, True),
        ("tie", "tie", 0, True),
        ("1", "1", 0, False),
        ("2", "2", 0, False),
        ("1", "tie", 0.5, False),
        (None, "1", -0.5, False),
        (None, None, 0, False),
        (None, "tie", 0, False),
    ],
)
def test_what_two_orders_say(choice: str | None, exchanged: str | None, margin: float, consistent: bool) -> None:
    match = Match(Asked("q", "a", "b"), choice, exchanged)
    assert (match.margin, match.consistent) == (margin, consistent)
    assert matches.wins([match]) == {("q", "a"): (1 + margin) / 2, ("q", "b"): (1 - margin) / 2}


def test_the_critics_ranking_is_paid(critic) -> None:
    won, told = critic(prefers("c", "a", "b")).reward(responses("a", "b", "c", "a", right="c"))
    assert won == [0.5, 0, 1, 0.5]
    assert told == {
        "judge/unparsed": 0,
        "judge/first": 0.5,
        "judge/tie": 0,
        "judge/consistent": 1,
        "judge/decided": 1,
        "judge/agreement": 1,
        "judge/readable": 1,
        "judge/distinct": 0.75,
        "judge/win": 0.5,
    }


@pytest.mark.parametrize(
    ("reply", "won", "expected"),
    [
        (lambda *_: box("1"), [0.5, 0.5, 0.5], {"first": 1, "consistent": 0, "decided": 0, "agreement": 0.5}),
        (lambda *_: box("2"), [0.5, 0.5, 0.5], {"first": 0, "consistent": 0, "decided": 0, "agreement": 0.5}),
        (lambda *_: box("tie"), [0.5, 0.5, 0.5], {"tie": 1, "consistent": 1, "decided": 0, "agreement": 0.5}),
        (longest, [0.5, 1, 0], {"longer": 1, "consistent": 1, "decided": 1, "agreement": 0}),
    ],
    ids=["always the first", "always the second", "always a tie", "the longest"],
)
def test_a_critic_without_judgement(critic, reply: Callable, won: list[float], expected: dict[str, float]) -> None:
    """What cannot be seen in the win is seen in the metrics: a critic that pays for length says so, and does not agree with the truth."""
    found, told = critic(reply).reward(responses("bbb", "ccccc", "a", right="a"))
    assert found == won
    assert {key: told[f"judge/{key}"] for key in expected} == expected


def test_a_question_to_which_nobody_knows_the_answer_pays_alike(critic) -> None:
    unknown = [Response(question_id=QUESTION.question_id, text=text, readable=True, right=None) for text in "abc"]
    won, told = critic(prefers("c", "a", "b")).reward(unknown)
    assert won == [0.5, 0, 1] and "judge/agreement" not in told


def test_a_response_without_an_answer_is_not_shown_and_wins_nothing(critic) -> None:
    judge = critic(longest)
    won, told = judge.reward(responses("short", "so long that it never ends", unreadable="so long that it never ends"))
    assert won == [0.5, 0] and judge.engine.asked == [] and told["judge/readable"] == 0.5


def test_nothing_is_asked_twice(critic) -> None:
    judge = critic(prefers("a", "b", "c"))
    judge.reward([*responses("a", "b", "a"), *responses("a", "c", question=OTHER)])
    assert len(judge.engine.asked) == 4
    won, _ = judge.reward(responses("b", "a", "c"))
    assert won == [0.5, 1, 0] and len(judge.engine.asked) == 8
    assert {request.sampling.temperature for request in judge.engine.asked} == {0}


def test_only_the_latest_verdicts_are_remembered(critic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "MAX_REMEMBERED", 2)
    judge = critic(prefers("a", "b", "c"))
    for texts, num in (("ab", 2), ("ab", 2), ("ac", 4), ("ab", 6)):
        judge.reward(responses(*texts))
        assert len(judge.engine.asked) == num and len(judge.remembered) == 2


def test_each_response_meets_the_reference_of_its_question(critic, folder: Path) -> None:
    unparsed = {"kind": "sample", "answer": None, "status": "missing", "correct": False, "prompt_tokens": 1, "completion_tokens": 1}
    common = {"question_id": QUESTION.question_id, "model": "m", "template_sha": "0"} | unparsed
    written = [json.dumps(common | {"sample": sample, "text": text}) + "\n" for sample, text in enumerate(("<think>b", "x"))]
    file = folder / "answers.jsonl"
    file.write_text("".join(written))
    judge = critic(prefers("a", "b", "c"), reference=str(file))
    assert judge.reward(responses("a", "b", "c"))[0] == [1, 0.5, 0]
    assert len(judge.engine.asked) == 4
    with pytest.raises(ValueError, match=f"answers.jsonl: no answer to the question {OTHER.question_id}; critic_r1.judge.reference"):
        judge.reward(responses("a", question=OTHER))


def test_a_critic_that_does_not_judge_ends_the_training(critic) -> None:
    rambles = critic(lambda prompt, _: box("1") if seen(prompt) == ("a", "b") else "I cannot say")
    assert rambles.reward(responses("a", "b"))[0] == [0.75, 0.25]
    with pytest.raises(ValueError, match=r"scripted gave no verdict in 5 of 6 cases.*max_unparsed=0.5.*'I cannot say'"):
        rambles.reward(responses("a", "b", "c"))


def test_a_dead_critic_ends_the_training(folder: Path) -> None:
    settings = judging.read(SETTINGS)
    judge = judging.load(settings, judging.engine(settings, ""), str(folder / "train.parquet"))
    with pytest.raises(ConnectionError, match=r"localhost:1/v1.* in 1 attempt.*start or repair the server"):
        judge.reward(responses("a", "b"))


def test_a_coin_is_a_critic_that_knows_nothing(folder: Path) -> None:
    settings = judging.read(SETTINGS | {"verdicts": "coin", "base_url": "", "opponents": 100})
    judge = judging.load(settings, judging.engine(settings, ""), str(folder / "train.parquet"))
    texts = [str(number) for number in range(24)]
    won, told = judge.reward([*responses(*texts, right="3"), *responses(*texts, question=OTHER)])
    assert told["judge/first"] == pytest.approx(0.5, abs=0.06) and told["judge/consistent"] == pytest.approx(0.5, abs=0.06)
    assert told["judge/unparsed"] == 0 and len(set(won)) > 10
    again = judging.load(settings, judging.engine(settings, ""), str(folder / "train.parquet"))
    assert again.reward([*responses(*texts), *responses(*texts, question=OTHER)])[0] == won
    other = judging.read(SETTINGS | {"verdicts": "coin", "seed": 2})
    assert judging.load(other, judging.engine(other, ""), str(folder / "train.parquet")).reward(responses(*texts))[0] != won[:24]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"verdicts": "votes"}, "critic_r1.judge.verdicts=votes: give one of critic, coin, truth"),
        ({"opponents": 0}, "critic_r1.judge.opponents=0: give a whole number above 0"),
        ({"opponents": True}, "critic_r1.judge.opponents=True"),
        ({"max_unparsed": 50}, "critic_r1.judge.max_unparsed=50: give a share from 0 to 1"),
        ({"opponent": 1}, "critic_r1.judge: .*opponent"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judging.read(SETTINGS | settings)


def test_no_critic_and_an_unknown_question(critic) -> None:
    with pytest.raises(ValueError, match=r"no critic: .*base_url=URL.*reward.reward_model.enable=true"):
        judging.engine(judging.read(SETTINGS | {"base_url": ""}), "")
    unknown = [Response(question_id="f" * 20, text=text, readable=True, right=False) for text in "ab"]
    with pytest.raises(ValueError, match=r"question f+ is not in records.jsonl beside the training data"):
        critic(longest).reward(unknown)
