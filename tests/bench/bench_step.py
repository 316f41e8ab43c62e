# SPDX-License-Identifier: Apache-2.0
"""The share of a GRPO step that our dataset, reward and sampler take: their seconds over the step's seconds. Goal: under 1 %.

    python tests/bench/bench_step.py [--run runs/demo] [--json]

The step's seconds and the sampler's are what a real training logged (RUN/training.jsonl, median over steps but the first); dataset and
reward are timed here on that run's data, for as many prompts and rollouts as one of its steps has.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

TURNS = 20


def median_seconds(work) -> float:
    seconds = []
    for _ in range(TURNS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    log = arguments.run / "training.jsonl"
    if not log.is_file():
        print(f"{log}: no training to compare with; run `make demo` first, or give --run", file=sys.stderr)
        return 1
    steps = [json.loads(line)["data"] for line in log.read_text().splitlines() if '"timing_s/reward_parts"' in line][1:]

    from critic_r1_verl.dataset import CriticDataset
    from critic_r1_verl.reward import compute_score
    from critic_r1_verl.training.compose import compose

    config = compose("critic_r1", ["+recipe/base=tiny", "+recipe/hardware=cpu"])
    prompts, rollouts = config.data.train_batch_size, config.data.train_batch_size * config.actor_rollout_ref.rollout.n
    file = str(arguments.run / "data" / "train.parquet")
    config.data.train_files = file
    dataset = CriticDataset([file], tokenizer=None, processor=object(), config=config.data)
    judged = arguments.run / "eval" / "base" / "test" / "judgements.jsonl"
    texts = [json.loads(line)["text"] for line in judged.read_text().splitlines()[:rollouts]]
    parts = {
        "dataset": median_seconds(lambda: [dataset[index] for index in range(prompts)]),
        "reward": median_seconds(lambda: [compute_score("digits", text, "1", {"style": "verdict"}) for text in texts]),
        "sampler": statistics.median(step["timing_s/reward_parts"] for step in steps),
    }
    step_seconds = statistics.median(step["timing_s/step"] for step in steps)
    result = {"step_seconds": step_seconds, "our_seconds": parts, "share": sum(parts.values()) / step_seconds, "n_steps": len(steps)}
    if arguments.json:
        print(json.dumps(result, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"our share of a GRPO step of {step_seconds:.1f} s ({prompts} prompts, {rollouts} rollouts, median of {len(steps)} steps)"
    )
    for column in ("part", "ms", "share of the step"):
        table.add_column(column, justify="right" if column != "part" else "left")
    for name, seconds in [*parts.items(), ("all", sum(parts.values()))]:
        table.add_row(name, f"{1000 * seconds:.2f}", f"{seconds / step_seconds:.3%}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
