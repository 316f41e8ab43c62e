# SPDX-License-Identifier: Apache-2.0
"""WildVision battles: the dialogues of one user with two anonymous models about an image, and the vote of this user.

Source: hub, WildVision/wildvision-battle, 10,000 to 100,000 rows. Licence ODC-BY. Also read: the cleaned battles that WildVision-Arena
writes, whose images are files named by question_id, and the judgements of WildVision-Bench (wildvision_bench.py).
Schema grade C: the columns are those of a related set, whose split is called test; an unknown winner or dialogue stops the build.
Label: `winner`; "tie" is a tie, "tie (bothbad)" is skipped. The vote is about whole dialogues, so a response holds all turns after the
first question.
Known defects: votes cast when the models were not anonymous, which are skipped; VL-RewardBench was drawn from it.
"""

from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Choice, Record
from data_prep.corpora.record import label, pairs, typed
from data_prep.corpora.wildvision_bench import judged, with_suffix
from data_prep.corpus import Put, SchemaError, Skip

NAME = "wildvision"
HUB = "WildVision/wildvision-battle"
CONFIG = None
SPLIT = "test"
REVISION = ""
LICENCE = "odc-by"
GRADE = "C"
COLUMNS: set[str] = set()

_WINNERS: dict[str, Choice | Skip] = {"model_a": "1", "model_b": "2", "tie": "tie", "tie (bothbad)": Skip("both bad")}


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One pair; of a judgement of WildVision-Bench one for each game."""
    if "games" in raw:
        return judged(raw, with_suffix(put), source=NAME, licence=LICENCE)
    preferred = label("winner", raw.get("winner"), _WINNERS)
    if isinstance(preferred, Skip):
        return [preferred]
    if "conversation_a" not in raw and "conversation_b" not in raw:
        raise SchemaError(f"found the keys {sorted(raw)}, and no conversation_a: these battles hold no texts; give the judgements instead")
    if raw.get("anony") is False:
        return [Skip("models were not anonymous")]
    if not raw.get("conversation_a") or not raw.get("conversation_b"):
        return [Skip("no dialogue")]
    (asked_a, first), (asked_b, second) = _dialogue(raw, "conversation_a"), _dialogue(raw, "conversation_b")
    if asked_a != asked_b:
        return [Skip("the two dialogues ask different things")]
    candidate = (first, second, preferred)
    image = raw["image"] if "image" in raw else raw.get("question_id")
    return pairs(with_suffix(put), image, asked_a[0], [candidate], source=NAME, licence=LICENCE, category=raw.get("domain"))


def _dialogue(raw: dict[str, Any], key: str) -> tuple[list[Any], Any]:
    """The turns of the user, and the response: the one answer of the model, or all turns from the first answer on."""
    turns = typed(raw, key, list)
    roles = [turn.get("role") if isinstance(turn, dict) else None for turn in turns]
    if roles != ["user", "assistant"] * (len(turns) // 2):
        raise SchemaError(f"key {key!r}: found {turns!r:.200}, expected alternating turns of user and assistant")
    texts = [turn.get("content") for turn in turns]
    if len(turns) == 2 or not all(isinstance(text, str) for text in texts):
        return texts[::2], texts[1]
    return texts[::2], "\n\n".join(f"{role.capitalize()}: {text}" for role, text in list(zip(roles, texts, strict=True))[1:])
