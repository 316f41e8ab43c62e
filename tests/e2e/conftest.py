# SPDX-License-Identifier: Apache-2.0
"""What the tests of the real stack share."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
import small_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_world.make(tmp_path_factory.mktemp("world"))
