# SPDX-License-Identifier: Apache-2.0
"""What the demo asks of one checkpoint: judge the held-out pairs, answer the held-out questions, pick among the answers."""

import json
from pathlib import Path
from typing import Any

from critic_r1_verl import prompts
from critic_r1_verl.answer import answer
from critic_r1_verl.engines.base import Engine, Sampling
from critic_r1_verl.files import replacing
from critic_r1_verl.judge import Protocol, judge
from critic_r1_verl.records import PairRecord, QuestionRecord, RecordFile
from critic_r1_verl.scoring import estimates
from critic_r1_verl.select import by_question, majority, self_critique

SAMPLES = 8
CRITIC_TOKENS = 64
POLICY_TOKENS = 32


def measure(generator: Engine, data: Path, out: Path, name: str) -> dict[str, Any]:
    """Write out/<name>_{judgements,answers,selections}.jsonl for data/test_pairs.jsonl and data/test_questions.jsonl; return their summary.

    A killed call goes on where it was; the selections, the shortest part, start again.
    """
    pairs, questions = (
        list(RecordFile(Path(data / "test_pairs.jsonl"), PairRecord)),
        list(RecordFile(Path(data / "test_questions.jsonl"), QuestionRecord)),
    )
    critic, policy = Protocol(prompts.load("critic_short"), Sampling(CRITIC_TOKENS)), prompts.load("policy_short")
    judgements = list(judge(pairs, generator, critic, out / f"{name}_judgements.jsonl", root=data))
    answers = answer(questions, generator, policy, out / f"{name}_answers.jsonl", root=data, samples=SAMPLES, max_tokens=POLICY_TOKENS)
    samples = by_question(answers)
    selections = majority(samples) + self_critique(questions, samples, generator, critic, root=data)
    with replacing(out / f"{name}_selections.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in selections), encoding="utf-8")
    return estimates.summarise(judgements, answers, selections)


def load(out: Path, name: str) -> tuple[list[dict], list[dict], list[dict]]:
    """The judgements, answers and selections that measure wrote: what estimates.summarise and estimates.difference take."""

    def lines(kind: str) -> list[dict]:
        file = out / f"{name}_{kind}.jsonl"
        if not file.is_file():
            raise ValueError(f"{file}: not measured yet; run `critic-r1 measure` first")
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]

    return lines("judgements"), lines("answers"), lines("selections")
