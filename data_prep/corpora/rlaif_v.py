# SPDX-License-Identifier: Apache-2.0
"""RLAIF-V: two answers of one model to a question, ordered by an open model that checks their statements.

Source: hub, openbmb/RLAIF-V-Dataset, split train, 83,132 rows. Licence CC-BY-NC-4.0. Schema grade A.
Label: chosen over rejected.
Known defects: some chosen answers are a bare yes or no; several pairs for one image; VL-RewardBench was drawn from it.
"""

from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Record
from data_prep.corpora.record import chosen_over, pairs
from data_prep.corpus import Put, Skip

NAME = "rlaif_v"
HUB = "openbmb/RLAIF-V-Dataset"
CONFIG = None
SPLIT = "train"
REVISION = ""
LICENCE = "cc-by-nc-4.0"
GRADE = "A"
COLUMNS = {"image", "question", "chosen", "rejected"}


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One pair."""
    candidate = chosen_over(raw.get("chosen"), raw.get("rejected"))
    category = raw.get("origin_dataset")
    return pairs(put, raw.get("image"), raw.get("question"), [candidate], source=NAME, licence=LICENCE, category=category)
