# SPDX-License-Identifier: Apache-2.0
"""Verdicts a second of `critic-r1 select`, on the CPU stack with an untaught small model, against the engine alone on the same prompts.

    python tests/bench/bench_select.py [--questions 64] [--samples 8] [--runs 3] [--json]

The answers are drawn beforehand. `select` makes the verdicts of a knock-out and of the default method, round by round, with its journal and
all selections; the engine alone is given the same requests at once, pictures to be read included. They take turns with empty caches; the
ratio is the median of the turns' (goal: at least 0.9).
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ |= {"VERL_PLATFORM": "cpu", "HF_HUB_OFFLINE": "1"}
TOKENS = 24


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), arguments.questions, arguments.samples, arguments.runs)
    if arguments.json:
        print(json.dumps(found))
    else:
        print(f"select: {found['select']:.1f} verdicts a second, {found['ratio']:.2f} of the engine alone ({found['engine']:.1f})")
    return 0


def measured(folder: Path, num_questions: int, num_samples: int, num_runs: int) -> dict[str, float]:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import small_world

    from critic_r1_verl import prompts
    from critic_r1_verl.answer import Policy, answer
    from critic_r1_verl.critics.answers import AnswerCritic
    from critic_r1_verl.critics.pairwise import PairwiseCritic
    from critic_r1_verl.engines.base import Sampling
    from critic_r1_verl.engines.vllm import VllmEngine
    from critic_r1_verl.lines import Match
    from critic_r1_verl.records import QuestionRecord, RecordFile
    from critic_r1_verl.select.candidates import by_question
    from critic_r1_verl.select.plan import Plan, selections_of, verdicts_of
    from critic_r1_verl.select.run import judge_answers

    small_world.make(folder, test_questions=num_questions)
    data = folder / "data"
    questions = {question.question_id: question for question in RecordFile(data / "records.jsonl", QuestionRecord, "test")}
    engine = VllmEngine(folder / "base")
    policy = Policy(prompts.load("policy_short"), Sampling(TOKENS, temperature=1.0, samples=num_samples))
    samples = by_question(answer(list(questions.values()), engine, policy, folder / "answers.jsonl", root=data))
    critic = AnswerCritic(PairwiseCritic(prompts.load("critic_short"), Sampling(TOKENS)))
    plan, out = Plan(samples=(num_samples,)), folder / Match.FILE

    def select() -> list:
        out.unlink(missing_ok=True)
        matches = judge_answers(questions, samples, plan, engine, critic, out, root=data)
        selections_of(plan, questions.values(), samples, verdicts_of(matches))
        return list(matches)

    def request(match: Match):
        texts = [samples[match.question_id][sample].text for sample in match.shown]
        return critic.request(match.kind, questions[match.question_id], texts, data, match.repeat)

    requests = [request(match) for match in select()]
    seconds: dict[str, list[float]] = {"select": [], "engine": []}
    for _ in range(num_runs):
        for name, work in (("select", select), ("engine", lambda: list(engine.generate(requests)))):
            engine._llm.reset_prefix_cache()
            start = time.perf_counter()
            assert len(work()) == len(requests)
            seconds[name].append(time.perf_counter() - start)
    speeds = {name: len(requests) / statistics.median(times) for name, times in seconds.items()}
    ratios = [alone / selecting for selecting, alone in zip(seconds["select"], seconds["engine"], strict=True)]
    return speeds | {"ratio": statistics.median(ratios), "verdicts": len(requests)}


if __name__ == "__main__":
    sys.exit(main())
