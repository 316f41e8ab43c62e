# SPDX-License-Identifier: Apache-2.0
"""What the tests of the real stack share."""

import json
from pathlib import Path

import pytest

from critic_r1_verl import tiny
from data_prep import embedded

SIZE = embedded.DigitsSize(policy_lessons=50, critic_lessons=50, train_pairs=16, val_pairs=4, test_pairs=64, test_questions=4)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data/ with a few pairs, and in base/ an untaught base that writes at random up to its limit of tokens."""
    folder = tmp_path_factory.mktemp("world")
    embedded.build_digits(folder / "data", SIZE)
    lessons = [json.loads(line) for line in (folder / "data" / "lessons.jsonl").read_text().splitlines()]
    tiny.build([lesson[key] for lesson in lessons for key in ("prompt", "response")], folder / "base")
    return folder
