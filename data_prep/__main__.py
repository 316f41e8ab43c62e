# SPDX-License-Identifier: Apache-2.0
"""`python -m data_prep build --corpus digits --out DIR`: a corpus as rows that verl trains on."""

import argparse
import sys
from pathlib import Path

from data_prep import build


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m data_prep", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build", help="write train.parquet, val.parquet, images/ and manifest.json")
    command.add_argument("--corpus", required=True, choices=["digits"], help="digits: the embedded world")
    command.add_argument("--out", type=Path, required=True, help="folder to write")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--random-labels", action="store_true", help="the control: training labels drawn by a coin")
    arguments = parser.parse_args()
    manifest = build.build_digits(arguments.out, seed=arguments.seed, random_labels=arguments.random_labels)
    for corpus in manifest["corpora"].values():
        for name, count in corpus["counts"].items():
            skipped = ", ".join(f"{number} {reason}" for reason, number in count["skipped"].items())
            print(f"{name}: read {count['read']}, kept {count['kept']}, skipped {skipped}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
