# SPDX-License-Identifier: Apache-2.0
"""What the default method of `critic-r1 select` gains on the vote of as many tokens, in the synthetic worlds of tests/test_budget.py.

    python tests/bench/bench_default.py [--seeds 8]

Prints a table: points of accuracy with 4 and 8 samples, mean and range of the seeds. It takes about a minute for 8 seeds.
"""

import argparse
import statistics
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from test_budget import Simulation, World

ABLE = (4.0, 0.7)
WORLDS = {
    "no skill; a verdict costs 1 sample": World(0.5, cost=1),
    "no skill; 3 samples": World(0.5, cost=3),
    "no skill; 6 samples": World(0.5, cost=6),
    "no skill, says 'the first' in 80 %; 3 samples": World(0.5, bias=0.3, cost=3),
    "no skill; 3 samples; able": World(0.5, cost=3, ability=ABLE),
    "right in 65 %; 3 samples": World(0.65, cost=3),
    "right in 80 %; 1 sample": World(0.8, cost=1),
    "right in 80 %; 3 samples": World(0.8, cost=3),
    "right in 80 %; 6 samples": World(0.8, cost=6),
    "right in 90 %; 3 samples": World(0.9, cost=3),
    "right in 90 %; 3 samples; able": World(0.9, cost=3, ability=ABLE),
    "right in 95 %; 6 samples": World(0.95, cost=6),
    "prefers in 90 % what the generator prefers; 3 samples": World(0.9, cost=3, correlation=1.0),
    "prefers in 95 % the right answer or, on 3 of 10 questions, the same wrong one; 3 samples": World(0.95, cost=3, misled=0.3),
    "the same; able": World(0.95, cost=3, misled=0.3, ability=ABLE),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    seeds = range(parser.parse_args().seeds)
    print("| judge | 4 samples | 8 samples |\n|---|---|---|")
    for name, world in WORLDS.items():
        cells = []
        for number in (4, 8):
            gains = [100 * Simulation(replace(world, seed=seed)).gain(number) for seed in seeds]
            cells.append(f"{statistics.fmean(gains):+.1f} ({min(gains):+.1f} to {max(gains):+.1f})")
        print(f"| {name} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
