# SPDX-License-Identifier: Apache-2.0
"""RLHF-V: the answer of a model, and the same text with its hallucinations corrected by people.

Source: hub, openbmb/RLHF-V-Dataset, split train, 5,733 rows. Licence CC-BY-NC-4.0. Schema grade A.
Label: chosen is the correction, rejected the text of the model; both are in the JSON text of the column `text`.
Known defects: empty corrections; both texts share long parts; the longer one is preferred in about 70 %; VL-RewardBench was drawn from it.
"""

import json
from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Record
from data_prep.corpora.record import chosen_over, pairs
from data_prep.corpus import Put, Skip

NAME = "rlhf_v"
HUB = "openbmb/RLHF-V-Dataset"
CONFIG = None
SPLIT = "train"
REVISION = ""
LICENCE = "cc-by-nc-4.0"
GRADE = "A"
COLUMNS = {"image", "text"}


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One pair."""
    text = raw.get("text")
    if isinstance(text, str):
        try:
            text = json.loads(text)
        except (ValueError, RecursionError):
            return [Skip("text is not JSON")]
    if not isinstance(text, dict):
        return [Skip("text is not a JSON object")]
    candidate = chosen_over(text.get("chosen"), text.get("rejected"))
    category = raw.get("origin_dataset")
    return pairs(put, raw.get("image"), text.get("question"), [candidate], source=NAME, licence=LICENCE, category=category)
