# SPDX-License-Identifier: Apache-2.0
"""Public benchmarks of critics, one file each, and any file of pairs.

A benchmark is a module: load(location, out) -> records, images stored under out/images; group(record) -> str; official(trials, cases)
-> {"overall", "macro", "groups"}, shares in [0, 1] as its official code computes them; parse, its own verdict grammar or None.
PAIRS says how many there should be, for each edition that there has been, GROUPS how many of each group there were in the first.
recognises(values) says whether a file of per-item results whose first row is this one can be its own, whoever published it;
published(rows) -> tally.Published is what such a file says.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from critic_r1_verl.data_folder import RECORDS
from critic_r1_verl.records import PairRecord

MODULES = {
    "vl_rewardbench": "critic_r1_verl.benchmarks.vl_rewardbench",
    "mm_rlhf_rewardbench": "critic_r1_verl.benchmarks.mm_rlhf_rewardbench",
    "multimodal_rewardbench": "critic_r1_verl.benchmarks.multimodal_rewardbench",
    "multi_crit": "critic_r1_verl.benchmarks.multi_crit",
    "mmrb2": "critic_r1_verl.benchmarks.mmrb2",
    "pairs": "critic_r1_verl.benchmarks.pairs",
}


def module(name_or_path: str) -> Any:
    """The module of a benchmark by its name (dashes or underscores), or `pairs` for the path of a .jsonl file or of a data folder."""
    path = Path(name_or_path)
    name = "pairs" if path.suffix == ".jsonl" or (path / RECORDS).is_file() else name_or_path.lower().replace("-", "_")
    if path.suffix == ".parquet":
        raise ValueError(f"benchmark {name_or_path!r}: rows are not read as a benchmark; give their data folder, {str(path.parent)!r}")
    if name not in MODULES:
        raise ValueError(f"benchmark {name_or_path!r}: none of {', '.join(MODULES)}, no data folder and no .jsonl file of records either")
    return import_module(MODULES[name])


def load(name_or_path: str, out: Path, location: str | Path = "") -> Iterator[PairRecord]:
    """The records of a benchmark, from a hub id, a folder or a file; by default its own hub id. ValueError names file, row and key."""
    benchmark = module(name_or_path)
    if not benchmark.PAIRS and not location:
        location = name_or_path
    return benchmark.load(location, out)
