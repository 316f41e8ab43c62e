# SPDX-License-Identifier: Apache-2.0
"""Answering with a scripted model: what is asked, what is written, what a killed run finds again."""

from dataclasses import replace
from pathlib import Path

import pytest

from critic_r1_verl import prompts
from critic_r1_verl.answer import Policy, answer
from critic_r1_verl.engines.base import Sampling
from critic_r1_verl.records import Image, QuestionRecord

IMAGE = Image(path="images/a.png", sha256="0" * 64)
GREEDY = Policy(prompts.load("policy_short"), Sampling(8))
SAMPLED = Policy(prompts.load("policy_short"), Sampling(8, temperature=1.0, samples=3))


def question(number: int) -> QuestionRecord:
    return QuestionRecord(images=(IMAGE,), question=f"Q{number}?", answer="7", source="t")


def test_greedy_and_sampled_answers_share_a_file(scripted, tmp_path: Path) -> None:
    model, out = scripted(lambda _, sample: f"<think>t</think> \\boxed{{{7 if sample != 1 else 3}}}"), tmp_path / "a.jsonl"
    for policy in (GREEDY, SAMPLED):
        lines = list(answer([question(0)], model, policy, out, root=Path("/data")))
    assert [(line.kind, line.sample, line.answer, line.correct) for line in lines] == [
        ("greedy", 0, "7", True),
        ("sample", 0, "7", True),
        ("sample", 1, "3", False),
        ("sample", 2, "7", True),
    ]
    assert [(request.sampling.temperature, request.sampling.samples) for request in model.asked] == [(0.0, 1), (1.0, 3)]
    again = scripted(lambda *_: pytest.fail("asked again"))
    assert list(answer([question(0)], again, SAMPLED, out, root=Path("/data"))) == lines


def test_a_killed_run_ends_with_the_same_bytes(scripted, tmp_path: Path) -> None:
    def reply(prompt: str, sample: int) -> str:
        return f"<think>t</think> \\boxed{{{sample}}}"

    questions = [question(number) for number in range(4)]
    answer(questions, scripted(reply), SAMPLED, tmp_path / "whole.jsonl", root=Path("/data"))
    with pytest.raises(KeyboardInterrupt):
        answer(questions, scripted(reply, die_after=2), SAMPLED, tmp_path / "cut.jsonl", root=Path("/data"))
    # The kill may come within a write: two of the three samples of the next question are there.
    whole, cut = (tmp_path / name for name in ("whole.jsonl", "cut.jsonl"))
    cut.write_bytes(cut.read_bytes() + b"".join(line for line in whole.read_bytes().splitlines(True) if line not in cut.read_bytes())[:700])
    rest = scripted(reply)
    answer(questions, rest, SAMPLED, cut, root=Path("/data"))
    assert len(rest.asked) == 2
    assert cut.read_bytes() == whole.read_bytes()


def test_another_models_think_tags_become_ours(scripted, tmp_path: Path) -> None:
    policy = Policy(prompts.load("policy_short"), Sampling(8), think_tags=("[THINK]", "[/THINK]"))
    (line,) = answer([question(0)], scripted(lambda *_: "[THINK]t[/THINK] \\boxed{7}"), policy, tmp_path / "a.jsonl", root=Path("/data"))
    assert (line.text, line.correct) == ("<think>t</think> \\boxed{7}", True)
    policy = replace(policy, thought_opened=True)
    (line,) = answer([question(0)], scripted(lambda *_: "t[/THINK] \\boxed{7}"), policy, tmp_path / "b.jsonl", root=Path("/data"))
    assert (line.text, line.correct) == ("<think>t</think> \\boxed{7}", True)


@pytest.mark.parametrize(("samples", "message"), [(0, "give 1 or more"), (2, "2 samples at temperature 0 are all the same")])
def test_samples_that_make_no_sense(samples: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Policy(prompts.load("policy_short"), Sampling(8, samples=samples))
