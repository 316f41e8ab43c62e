# SPDX-License-Identifier: Apache-2.0
"""Check a data folder again, from its files alone: every row, every image, and that the manifest tells what is there.

    python -m data_prep validate runs/data      # exit status 0: sound; 1: problems, each with its file, row, key and what is wrong

A row is checked against the reward that training uses (critic_r1_verl.rows.check_row), so a row that passes can be trained on.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from critic_r1_verl.rows import SHAPE, Row, check_row, row_sha
from data_prep.writing import file_sha, image_list

SPLITS = ("train", "val")
NUM_SHOWN = 20
BATCH_SIZE = 256


@dataclass(frozen=True, slots=True)
class Problem:
    """file is relative to the data folder; row counts from 0, None is the file as a whole; key is the row's pair_id if it has one."""

    file: str
    row: int | None
    key: str
    what: str

    def __str__(self) -> str:
        row = "" if self.row is None else f" row {self.row}"
        return f"{self.file}{row}{f' ({self.key})' if self.key else ''}: {self.what}"


@dataclass
class _Seen:
    """What the rows of one split hold, gathered while they are checked."""

    images: dict[str, int] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)
    shown: set[tuple[str, str]] = field(default_factory=set)
    labels: Counter[str] = field(default_factory=Counter)
    styles: dict[str, str] = field(default_factory=dict)
    num_rows: int = 0
    sound: bool = True


def validate(folder: Path) -> int:
    """Print what is wrong with a data folder, the first NUM_SHOWN problems and how many there are; return 0 if nothing is, else 1."""
    from rich.console import Console
    from rich.progress import Progress

    num_problems = 0
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("rows", total=sum(num_rows(folder / f"{split}.parquet") for split in SPLITS))
        for problem in problems(folder, advance=lambda: progress.advance(task)):
            num_problems += 1
            if num_problems <= NUM_SHOWN:
                print(problem)
    if num_problems > NUM_SHOWN:
        print(f"... and {num_problems - NUM_SHOWN} more")
    print(f"{folder}: {f'{num_problems} problems' if num_problems else 'sound'}")
    return int(num_problems > 0)


def problems(folder: Path, advance: Callable[[], object] = lambda: None) -> Iterator[Problem]:
    """All problems of a data folder, as they are found; advance is called after each row. Memory grows with the number of records only."""
    seen = {split: _Seen() for split in SPLITS}
    manifest = _manifest(folder)
    if isinstance(manifest, Problem):
        yield manifest
        manifest = {}
    image_hashes: dict[str, str] = {}
    for split in SPLITS:
        yield from _split_problems(folder, split, seen[split], manifest, image_hashes, advance)
    yield from _leaks(*(seen[split] for split in SPLITS))
    if manifest:
        yield from (Problem("manifest.json", None, "", what) for what in _manifest_problems(folder, manifest, seen, image_hashes))


def stream_rows(path: Path) -> Iterator[Row]:
    """The rows of a parquet file one after the other, in flat memory. ValueError: no such file, not parquet, a missing column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise ValueError(f"{path}: no such file; `python -m data_prep build` writes it")
    try:
        with pq.ParquetFile(path) as file:
            if missing := [name for name in SHAPE if name not in file.schema_arrow.names]:
                raise ValueError(f"{path}: column {missing[0]!r} is missing; the columns are {', '.join(file.schema_arrow.names)}")
            for batch in file.iter_batches(BATCH_SIZE):
                yield from batch.to_pylist()
    # Text that is not UTF-8 shows only when it becomes Python's.
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable parquet file ({error}); build the data again") from error


def num_rows(path: Path) -> int:
    """How many rows a parquet file says it has; 0 if it cannot be read, which stream_rows reports."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError):
        return 0


def _split_problems(
    folder: Path, split: str, seen: _Seen, manifest: Mapping[str, Any], image_hashes: dict[str, str], advance: Callable[[], object]
) -> Iterator[Problem]:
    file = f"{split}.parquet"
    try:
        for number, (row, found) in enumerate(_checked(stream_rows(folder / file), folder)):
            if not found:
                found = [*_place_problems(row, number, split, manifest, seen), *_hash_problems(row, folder, image_hashes)]
                found = found or _change_problems(row)
                _remember(row, number, seen)
            seen.num_rows += 1
            seen.sound = seen.sound and not found
            yield from (Problem(file, number, _key(row), what) for what in found)
            advance()
    except ValueError as error:
        seen.sound = False
        yield Problem(file, None, "", str(error).removeprefix(f"{folder / file}: "))
    if seen.sound and abs(seen.labels["1"] - seen.labels["2"]) > 1:
        yield Problem(file, None, "", f"the preferred response stands first in {seen.labels['1']} rows and second in {seen.labels['2']}")


def _checked(rows: Iterable[Row], folder: Path) -> Iterator[tuple[Row, list[str]]]:
    """Each row with what check_row says, several at a time: most of the time goes into decoding images, which needs no interpreter lock."""
    from concurrent.futures import ThreadPoolExecutor

    rows = iter(rows)
    with ThreadPoolExecutor() as pool:
        while batch := list(islice(rows, BATCH_SIZE)):
            yield from zip(batch, pool.map(lambda row: check_row(row, folder), batch), strict=True)


def _key(row: Row) -> str:
    extra = row["extra_info"]
    return str(extra.get("pair_id") or "") if isinstance(extra, dict) else ""


def _place_problems(row: Row, number: int, split: str, manifest: Mapping[str, Any], seen: _Seen) -> list[str]:
    """What is wrong with a row in its place: number, split, a source or template that the manifest does not name, a record twice."""
    extra, templates, corpora = row["extra_info"], manifest.get("templates"), manifest.get("corpora")
    found = []
    if extra["index"] != number:
        found.append(f"extra_info.index is {extra['index']}")
    if isinstance(corpora, dict) and row["data_source"] not in corpora:
        found.append(f"data_source {row['data_source']!r} is none of the manifest's corpora")
    if extra["split"] != split:
        found.append(f"extra_info.split is {extra['split']!r}")
    if isinstance(templates, dict) and extra["template_sha"] not in templates.values():
        found.append(f"extra_info.template_sha {extra['template_sha']:.12} is none of the manifest's templates")
    if (extra["pair_id"], extra["order"]) in seen.shown:
        found.append(f"extra_info.pair_id stands in row {seen.records[extra['pair_id']]} too, in the same order")
    return found


def _hash_problems(row: Row, folder: Path, image_hashes: dict[str, str]) -> list[str]:
    found = []
    for path in row["images"]:
        if path not in image_hashes:
            image_hashes[path] = file_sha(folder / path)
        if Path(path).stem != image_hashes[path][:32]:
            found.append(f"image {path!r} holds other bytes than its name says: their sha256 begins with {image_hashes[path][:32]}")
    return found


def _change_problems(row: Row) -> list[str]:
    """A row that is well-formed and not the one that was built: another label, a word of the prompt."""
    same = row_sha(row) == row["extra_info"]["row_sha"]
    return [] if same else ["the row has changed since it was built: it does not give its extra_info.row_sha"]


def _remember(row: Row, number: int, seen: _Seen) -> None:
    extra = row["extra_info"]
    for path in row["images"]:
        seen.images.setdefault(path, number)
    seen.records.setdefault(extra["pair_id"], number)
    seen.styles[extra["pair_id"]] = extra["style"]
    seen.shown.add((extra["pair_id"], extra["order"]))
    if extra["style"] == "verdict":
        seen.labels[row["reward_model"]["ground_truth"]] += 1


def _leaks(train: _Seen, val: _Seen) -> Iterator[Problem]:
    for kind, in_train, in_val in (("image", train.images, val.images), ("pair or question", train.records, val.records)):
        for shared in sorted(in_train.keys() & in_val.keys()):
            what = f"{kind} {shared} is in train.parquet row {in_train[shared]} too: validation would measure what was trained on"
            yield Problem("val.parquet", in_val[shared], "", what)


def _manifest(folder: Path) -> dict[str, Any] | Problem:
    """The manifest, or what keeps it from being read."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Problem("manifest.json", None, "", "is missing: it is written last, so this build did not end; build the data again")
    except (OSError, ValueError, RecursionError) as error:
        return Problem("manifest.json", None, "", f"cannot be read ({error}); build the data again")
    if not isinstance(manifest, dict) or not manifest:
        return Problem("manifest.json", None, "", "is not a JSON object with entries; build the data again")
    return manifest


def _manifest_problems(folder: Path, manifest: dict[str, Any], seen: Mapping[str, _Seen], image_hashes: Mapping[str, str]) -> Iterator[str]:
    try:
        yield from _file_problems(folder, manifest)
        yield from _count_problems(manifest, seen)
        yield from _image_problems(folder, manifest, image_hashes)
    # Whatever JSON stands there: the error says which entry was looked for.
    except (KeyError, TypeError, AttributeError) as error:
        yield f"lacks an entry or has one of another type ({type(error).__name__}: {error}); build the data again"


def _file_problems(folder: Path, manifest: dict[str, Any]) -> Iterator[str]:
    for name in sorted({*manifest["files"], *(f"{split}.parquet" for split in SPLITS)}):
        expected = manifest["files"].get(name)
        if expected is None:
            yield f"files: {name!r} is missing"
        elif not (folder / name).is_file():
            yield f"files: {name!r} is named and not there"
        elif file_sha(folder / name) != expected:
            yield f"files: {name!r} has changed since it was built: its sha256 is another"


def _count_problems(manifest: dict[str, Any], seen: Mapping[str, _Seen]) -> Iterator[str]:
    kept = 0
    for name, corpus in manifest["corpora"].items():
        counts = corpus["counts"]
        skipped = sum(counts["skipped"].values())
        kept += counts["kept"]
        if counts["kept"] + skipped != counts["read"]:
            yield f"corpora.{name}.counts: kept {counts['kept']} + skipped {skipped} is not read {counts['read']}"
    # Rows with problems of their own are not known well enough to be counted as records.
    if not all(split.sound for split in seen.values()):
        return
    num_records = sum(len(split.records) for split in seen.values())
    if kept != num_records:
        yield f"corpora: kept {kept} records in all, the rows hold {num_records}"
    for name, split in seen.items():
        styles = Counter(split.styles.values())
        found = {"rows": split.num_rows, "pairs": styles["verdict"], "questions": styles["math"]}
        for key, count in found.items():
            if manifest["splits"][name][key] != count:
                yield f"splits.{name}.{key} is {manifest['splits'][name][key]}, the rows hold {count}"
        decided = split.labels["1"] + split.labels["2"]
        share, found_share = manifest["preferred_first"]["after"][name], split.labels["1"] / decided if decided else None
        if share != found_share:
            yield f"preferred_first.after.{name} is {share}, the rows have {found_share}"


def _image_problems(folder: Path, manifest: dict[str, Any], image_hashes: Mapping[str, str]) -> Iterator[str]:
    """Pictures that no row names count too: the digits have some for their lessons."""
    names = [f"images/{file.name}" for file in (folder / "images").glob("*") if file.is_file()]
    found = image_list(image_hashes.get(name) or file_sha(folder / name) for name in names)
    for key in ("count", "sha256"):
        if manifest["images"][key] != found[key]:
            yield f"images.{key} is {manifest['images'][key]}, that of the files in images/ is {found[key]}"
            return
