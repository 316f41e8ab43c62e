# SPDX-License-Identifier: Apache-2.0
"""The embedded digits (data_prep/digits.py): two responses to a question about a picture of one to three handwritten digits. No download.

Source: the build draws the rows itself (data_prep/embedded.py), the picture of each from the scans that scikit-learn carries. Licence
CC BY 4.0. Schema grade A: it is ours. Label rule: fewer wrong statements are better.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from critic_r1_verl.images import BadImage
from critic_r1_verl.records import Record
from data_prep import digits
from data_prep.corpus import Put, SchemaError, Skip

NAME = digits.SOURCE
HUB = None
CONFIG = None
SPLIT = "train"
REVISION = digits.REVISION
LICENCE = digits.LICENCE
GRADE = "A"
COLUMNS = {"split", "scans", "kind", "claims", "preferred"}


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One pair. All of a split's scans stay on one side."""
    try:
        pair = digits.from_json(raw)
        record = digits.convert(pair, put(digits.picture(pair["scene"])))
        return [replace(record, group=f"scans-{raw['split']}+{record.group}")]
    except BadImage:
        raise
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise SchemaError(f"found the keys {sorted(raw)}, expected what digits.to_json writes: {type(error).__name__}: {error}") from error
