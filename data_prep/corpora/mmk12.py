# SPDX-License-Identifier: Apache-2.0
"""MMK12: school problems in mathematics and science, each with one image. Policy data.

Source: hub, FanqingM/MMK12, split train, 15,616 rows (test, 2,000 rows, is a benchmark). Licence Apache-2.0 according to others.
Also read: k12.json of the authors' repository, a list of such rows whose image is a path, `image_path`, relative to the folder.
Schema grade C: the columns are known from loaders by others; an image or a question of another type stops the build.
Known defects: the options are in the text of the question; answers may be letters, values or, rarely, prose, which is skipped.
"""

from collections.abc import Iterable
from typing import Any

from critic_r1_verl.records import Record
from data_prep.corpora.record import question, typed, with_other_path
from data_prep.corpus import Put, Skip

NAME = "mmk12"
HUB = "FanqingM/MMK12"
CONFIG = None
SPLIT = "train"
REVISION = ""
LICENCE = "apache-2.0"
GRADE = "C"
COLUMNS = {"question", "answer"}


def convert(raw: dict[str, Any], put: Put) -> Iterable[Record | Skip]:
    """One question."""
    image = typed(raw, "image", dict) or typed(raw, "image_path", str)
    text, category = typed(raw, "question", str), raw.get("subject")
    return question(with_other_path(put, _in_images), image, text, raw.get("answer"), source=NAME, licence=LICENCE, category=category)


def _in_images(path: str) -> str:
    """The repository keeps the images in the folder images beside k12.json, whatever folder stands in the path."""
    return f"images/{path.rpartition('/')[2]}"
