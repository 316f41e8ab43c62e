# SPDX-License-Identifier: Apache-2.0
"""Public benchmarks of critics, one module each, `pairs` for any file of pairs, and `questions` for any file of questions.

A public benchmark is a module with

    HUB, FILES                its hub id, and the glob patterns of its files (reading.rows)
    PAIRS                     the number of its pairs, one number for each published edition
    GROUPS                    the number of pairs in each group of the first edition, None where it is not stated
    convert(row, out)         the record of a row; its images are stored under out/images
    parse(text)               the verdict that the benchmark's own format gives; parse is None if it has no format of its own
    official(trials, cases)   the official score, {"overall", "macro", "groups"} with shares in [0, 1]
    recognises(values)        whether a file of published per-item results can be of this benchmark, by the values of its first row
    published(rows)           the tally.Published of such a file
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from critic_r1_verl.benchmarks import reading
from critic_r1_verl.data_folder import RECORDS
from critic_r1_verl.records import PairRecord

MODULES = {
    name: f"{__name__}.{name}"
    for name in ("vl_rewardbench", "mm_rlhf_rewardbench", "multimodal_rewardbench", "multi_crit", "mmrb2", "pairs", "questions")
}

LEADERBOARDS = {"wildvision_bench": f"{__name__}.wildvision_bench"}
"""Benchmarks of models, not of critics: they have only PAIRS, GROUPS, recognises and published."""


def results_module(name: str) -> Any:
    """The module, of a benchmark or a leaderboard, that reads published results. ValueError for any other name."""
    known = name.lower().replace("-", "_")
    return import_module(LEADERBOARDS[known]) if known in LEADERBOARDS else module(name)


def module(name_or_path: str) -> Any:
    """The module of a benchmark by its name (dashes or underscores), or `pairs` for the path of a .jsonl file or of a data folder.

    ValueError for any other name, and for the path of a .parquet file.
    """
    path = Path(name_or_path)
    name = "pairs" if path.suffix == ".jsonl" or (path / RECORDS).is_file() else name_or_path.lower().replace("-", "_")
    if path.suffix == ".parquet":
        raise ValueError(f"benchmark {name_or_path!r}: rows are not read as a benchmark; give their data folder, {str(path.parent)!r}")
    if name not in MODULES:
        raise ValueError(f"benchmark {name_or_path!r}: none of {', '.join(MODULES)}, and no data folder or .jsonl file of records")
    return import_module(MODULES[name])


def load(name_or_path: str, out: Path, location: str | Path = "") -> Iterator[PairRecord]:
    """The records of a benchmark, with their images stored under out/images.

    location: the hub id, folder or file to read; by default the benchmark's own hub id. ValueError names the file, the row and the key.
    """
    benchmark = module(name_or_path)
    if not benchmark.HUB:
        return benchmark.load(location or name_or_path, out)
    return reading.records(reading.rows(location or benchmark.HUB, benchmark.FILES), lambda row: benchmark.convert(row, out))


def group(record: PairRecord) -> str:
    """The group of a benchmark in which a record is counted: its category, or its source if it has none."""
    return record.category or record.source
