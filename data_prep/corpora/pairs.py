# SPDX-License-Identifier: Apache-2.0
"""Your own pairs: --corpus pairs:FILE, as JSONL, parquet or CSV.

Columns: image (bytes, {bytes, path}, or a path relative to the file) or images (a list of them; in CSV a JSON list), question, and either
chosen and rejected, or response_1, response_2 and preferred ("1", "2" or "tie"). A column category is kept. --column
renames columns before this module reads them.
"""

import json
from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Choice, Record
from data_prep.corpora import record
from data_prep.corpus import Put, SchemaError, Skip

NAME = "pairs"
HUB = None
CONFIG = None
SPLIT = "train"
REVISION = ""
LICENCE = ""
GRADE = "A"
COLUMNS = {"question"}

_PREFERRED: dict[str, Choice] = {"1": "1", "2": "2", "tie": "tie"}


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One pair."""
    candidate: record.Candidate
    if "chosen" in raw and "rejected" in raw:
        candidate = record.chosen_over(raw["chosen"], raw["rejected"])
    elif {"response_1", "response_2", "preferred"} <= raw.keys():
        preferred = record.label("preferred", raw["preferred"], _PREFERRED)
        if isinstance(preferred, Skip):
            return [preferred]
        candidate = (raw["response_1"], raw["response_2"], preferred)
    else:
        raise SchemaError(f"found the keys {sorted(raw)}, expected chosen and rejected, or response_1, response_2 and preferred")
    images = raw["images"] if raw.get("images") else raw.get("image")
    if isinstance(images, str) and images.startswith("["):
        try:
            images = json.loads(images)
        except (ValueError, RecursionError):
            return [Skip("images are not a JSON list")]
    return record.pairs(put, images, raw.get("question"), [candidate], source=NAME, licence=LICENCE, category=raw.get("category"))
