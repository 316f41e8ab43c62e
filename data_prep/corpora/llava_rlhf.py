# SPDX-License-Identifier: Apache-2.0
"""LLaVA-RLHF human preferences: two answers of LLaVA-7B to the last question of a dialogue, compared by people.

Source: hub, zhiqings/LLaVA-Human-Preference-10K, split train, 9,422 rows in one JSON list; the images are COCO 2017 train, or COCO 2014
train with its longer file names, given by --images. Licence Apache-2.0. Schema grade B.
Label: preference 1 means output_1, 2 means output_2; there are no ties, and any other value stops the build.
Known defects: the last turn, of the model, only stands for the two outputs; earlier turns belong to the question.
"""

from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Choice, Record
from data_prep.corpora.record import ends_with_model, label, pairs, with_other_path
from data_prep.corpus import Put, Skip
from data_prep.turns import asked

NAME = "llava_rlhf"
HUB = "zhiqings/LLaVA-Human-Preference-10K"
CONFIG = None
SPLIT = "train"
REVISION = ""
LICENCE = "apache-2.0"
GRADE = "B"
COLUMNS = {"image", "conversations", "output_1", "output_2", "preference"}

_PREFERENCES: dict[str, Choice] = {"1": "1", "2": "2"}


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One pair."""
    preferred = label("preference", raw.get("preference"), _PREFERENCES)
    if isinstance(preferred, Skip):
        return [preferred]
    turns: Any = raw.get("conversations")
    if isinstance(turns, list) and turns and isinstance(turns[0], list):
        turns = turns[0]
    if not ends_with_model(turns):
        return [Skip("dialogue does not end with the model")]
    outputs = [output.get("value") if isinstance(output, dict) else output for output in (raw.get("output_1"), raw.get("output_2"))]
    candidate = (outputs[0], outputs[1], preferred)
    with_coco_2014 = with_other_path(put, lambda name: f"COCO_train2014_{name}")
    return pairs(with_coco_2014, raw.get("image"), asked(turns[:-1]), [candidate], source=NAME, licence=LICENCE)
