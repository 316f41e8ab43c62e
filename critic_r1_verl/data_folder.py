# SPDX-License-Identifier: Apache-2.0
"""The files of a data folder besides its images: one parquet file for each split, the records, and the manifest.

train.parquet, val.parquet, test.parquet    the rows (rows.py)
records.jsonl                               all records of the build, one per line, with their split: first train, then val, then test
manifest.json                               written last, so the build is complete if it exists
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from critic_r1_verl.prompts import Template
from critic_r1_verl.records import SPLITS

MANIFEST = "manifest.json"
RECORDS = "records.jsonl"


def rows_file(split: str) -> str:
    """The name of a split's parquet file."""
    return f"{split}.parquet"


FILES = (*map(rows_file, SPLITS), RECORDS)
"""The files whose hashes the manifest holds."""


def without_held_out(train: str) -> str:
    """What a training on the rows of `train` without held-out rows has to set, since verl opens a validation file in any case."""
    return f"data.val_files={train} trainer.test_freq=-1 trainer.val_before_train=false"


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The content of manifest.json. ValueError if it is missing, not readable, or lacks a key."""
    file = Path(folder) / MANIFEST
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); `critic-r1 data build` writes it as its last file") from error
    for key in ("corpora", "templates"):
        if not isinstance(manifest, dict) or not isinstance(manifest.get(key), dict):
            raise ValueError(f"{file}: {key!r} is missing or not an object; build the data again")
    return manifest


def templates(folder: str | Path) -> dict[str, Template]:
    """The prompt templates that a build used, {"pair": ..., "question": ...}, from its manifest.

    ValueError if a template is missing, or if its text does not match its sha256.
    """
    return templates_of(read_manifest(folder), str(Path(folder) / MANIFEST))


def templates_of(manifest: dict[str, Any], where: str) -> dict[str, Template]:
    """The same from the content of a manifest; error messages begin with `where`."""
    found = {}
    for kind in ("pair", "question"):
        try:
            stated = manifest["templates"][kind]
            template = Template(name=stated["name"], text=stated["text"], sha=stated["sha"])
            sha = hashlib.sha256(template.text.encode()).hexdigest()
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{where}: templates.{kind} is missing or lacks name, sha or text; build the data again") from error
        if sha != template.sha:
            raise ValueError(
                f"{where}: templates.{kind}: the text has the sha256 {sha}, not the stated {template.sha}; build the data again"
            )
        found[kind] = template
    return found
