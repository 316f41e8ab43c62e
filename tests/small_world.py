# SPDX-License-Identifier: Apache-2.0
"""A small embedded world for the end-to-end tests and the benchmarks, made of the files of examples/digits by the commands of a user."""

import sys
from pathlib import Path

from data_prep import cli

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
# The example's files import each other as scripts do.
sys.path.insert(0, str(DIGITS))


def make(folder: Path, **size: int) -> Path:
    """folder/data/ with so many pairs and questions (world.Size), and in folder/base/ an untaught base, which writes at random."""
    import base
    import teach
    import world

    few = {"policy_lessons": 50, "critic_lessons": 50, "train_pairs": 16, "val_pairs": 4, "test_pairs": 64}
    few |= {"train_questions": 16, "val_questions": 2, "test_questions": 4}
    world.write(folder / "world", world.Size(**few | size))
    corpus = f"{DIGITS / 'corpus.py'}:{folder / 'world' / 'rows.jsonl'}"
    templates = ("--template", "critic_short", "--question-template", "policy_short")
    if cli.main(["build", "--corpus", corpus, *templates, "--base", "tiny", "--no-lengths", "--out", str(folder / "data")]):
        raise SystemExit("the small world was not built; the lines above say why")
    base.build(teach.texts_of(teach.read_lessons(folder / "world" / "lessons.jsonl")), folder / "base")
    return folder
