# SPDX-License-Identifier: Apache-2.0
"""POVID: LLaVA's training answers, and the same with hallucinations put in by GPT-4V.

Source: hub, YiyangAiLab/POVID_preference_data_for_VLLMs, one JSON list of about 17,000 rows; the images are COCO 2014 train, given by
--images (the folder of the files, or the one with data/coco in it). Licence CC-BY-4.0. Schema grade A, the count C.
Label: the last turn of `conversations` over that of `rejected_conversations`.
Known defects: rejected answers are synthetic; VL-RewardBench was drawn from it.
"""

from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Record
from data_prep.corpora.record import by_path_or_name, chosen_over, pairs
from data_prep.corpus import Put, Skip, fold_turns

NAME = "povid"
HUB = "YiyangAiLab/POVID_preference_data_for_VLLMs"
CONFIG = None
SPLIT = "train"
REVISION = ""
LICENCE = "cc-by-4.0"
GRADE = "A"
COLUMNS = {"image", "conversations", "rejected_conversations"}


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One pair."""
    dialogues: list[Any] = [raw.get("conversations"), raw.get("rejected_conversations")]
    for turns in dialogues:
        if not isinstance(turns, list) or not turns or not isinstance(turns[-1], dict) or turns[-1].get("from") != "gpt":
            return [Skip("dialogue does not end with the model")]
    question, other = (fold_turns(turns[:-1]) for turns in dialogues)
    if question != other:
        return [Skip("the two dialogues ask different things")]
    chosen, rejected = (turns[-1].get("value") for turns in dialogues)
    return pairs(by_path_or_name(put), raw.get("image"), question, [chosen_over(chosen, rejected)], source=NAME, licence=LICENCE)
