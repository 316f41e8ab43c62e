# SPDX-License-Identifier: Apache-2.0
"""Compares the manifest of a data folder with the folder: files, counts and images. A part of validate.py."""

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from critic_r1_verl.data_folder import FILES, MANIFEST
from critic_r1_verl.files import file_sha256
from data_prep.stored_records import Place
from data_prep.writing import image_list, share_first


@dataclass
class Seen:
    """What was seen in the rows of one split. sound: no row has a problem. readable: the parquet file could be read to its end."""

    labels: Counter[str] = field(default_factory=Counter)
    num_rows: int = 0
    sound: bool = True
    readable: bool = True


def read(folder: Path) -> dict[str, Any] | str:
    """The manifest, or the reason why it cannot be used."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "is missing: it is written last, so the build did not finish; build the data again"
    except (OSError, ValueError, RecursionError) as error:
        return f"cannot be read ({error}); build the data again"
    if not isinstance(manifest, dict) or not manifest:
        return "is not a JSON object with entries; build the data again"
    return manifest


def problems(
    folder: Path,
    manifest: dict[str, Any],
    seen: Mapping[str, Seen],
    places: Collection[Place],
    image_hashes: Mapping[str, str],
) -> Iterator[str]:
    """Where the manifest disagrees with the files. image_hashes: {path: sha256} of the images that are known already."""
    try:
        yield from _file_problems(folder, manifest)
        yield from _count_problems(manifest, seen, places)
        yield from _image_problems(folder, manifest, image_hashes)
    # An edited manifest may hold any JSON; the exception names the entry.
    except (KeyError, TypeError, AttributeError) as error:
        yield f"lacks an entry or has one of another type ({type(error).__name__}: {error}); build the data again"


def _file_problems(folder: Path, manifest: dict[str, Any]) -> Iterator[str]:
    for name in sorted({*manifest["files"], *FILES}):
        expected = manifest["files"].get(name)
        if expected is None:
            yield f"files: {name!r} is missing"
        elif not (folder / name).is_file():
            yield f"files: {name!r} is listed but does not exist"
        elif file_sha256(folder / name) != expected:
            yield f"files: {name!r} has changed since the build: its sha256 differs"


def _count_problems(manifest: dict[str, Any], seen: Mapping[str, Seen], places: Collection[Place]) -> Iterator[str]:
    kept = 0
    for name, corpus in manifest["corpora"].items():
        counts = corpus["counts"]
        skipped = sum(counts["skipped"].values())
        kept += counts["kept"]
        if counts["kept"] + skipped != counts["read"]:
            yield f"corpora.{name}.counts: kept {counts['kept']} + skipped {skipped} is not read {counts['read']}"
    # The counts are compared only if every row is sound.
    if not all(split.sound for split in seen.values()):
        return
    if kept != len(places):
        yield f"corpora: kept {kept} records in all, but there are {len(places)}"
    kinds = Counter((place.split, place.kind) for place in places)
    for name, split in seen.items():
        found = {"rows": split.num_rows, "pairs": kinds[name, "pair"], "questions": kinds[name, "question"]}
        for key, count in found.items():
            if manifest["splits"][name][key] != count:
                yield f"splits.{name}.{key} is {manifest['splits'][name][key]}, but there are {count}"
        share, found_share = manifest["preferred_first"]["after"][name], share_first(split.labels)
        if share != found_share:
            yield f"preferred_first.after.{name} is {share}, but the rows have {found_share}"


def _image_problems(folder: Path, manifest: dict[str, Any], image_hashes: Mapping[str, str]) -> Iterator[str]:
    names = [f"images/{file.name}" for file in (folder / "images").glob("*") if file.is_file()]
    found = image_list(image_hashes.get(name) or file_sha256(folder / name) for name in names)
    for key in ("count", "sha256"):
        if manifest["images"][key] != found[key]:
            yield f"images.{key} is {manifest['images'][key]}, but that of the files in images/ is {found[key]}"
            return
