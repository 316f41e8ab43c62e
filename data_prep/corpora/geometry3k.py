# SPDX-License-Identifier: Apache-2.0
"""Geometry3K: geometry problems with a diagram and a value as the answer. Policy data.

Source: hub, hiyouga/geometry3k, split train, 2,101 rows. Licence MIT. Schema grade A.
Known defects: none that matter here. Newer revisions have more columns, which are not used.
"""

from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Record
from data_prep.corpora.record import question
from data_prep.corpus import Put, Skip

NAME = "geometry3k"
HUB = "hiyouga/geometry3k"
CONFIG = None
SPLIT = "train"
REVISION = ""
LICENCE = "mit"
GRADE = "A"
COLUMNS = {"images", "problem", "answer"}


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One question."""
    return question(put, raw.get("images"), raw.get("problem"), raw.get("answer"), source=NAME, licence=LICENCE)
