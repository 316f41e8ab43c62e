# SPDX-License-Identifier: Apache-2.0
"""The figures of a data folder and a sample of its rows as one HTML page with embedded pictures."""

import base64
import io
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from critic_r1_verl.data_folder import rows_file
from critic_r1_verl.files import replacing
from critic_r1_verl.images import BadImage, file_bytes, read
from critic_r1_verl.records import PairRecord, path_problem
from critic_r1_verl.report import page as report_page
from critic_r1_verl.rows import Row, stream_rows
from data_prep.inspection.display import tables
from data_prep.inspection.figures import ALL, Fact, Figures
from data_prep.stored_records import StoredRecords

NUM_EXAMPLES = 12
PICTURE_PIXELS = 512


def write_page(folder: Path, out: Path, found: Figures, facts: Sequence[Fact], records: StoredRecords, seed: int) -> None:
    """Write the page; seed is that of the sample of rows. ValueError names a picture that does not open."""
    sample = _sample(facts, seed)
    wanted = {(fact.split, fact.number) for fact in sample}
    rows = {
        (split, number): row
        for split in dict.fromkeys(fact.split for fact in facts)
        for number, row in enumerate(stream_rows(folder / rows_file(split)))
        if (split, number) in wanted
    }
    page = report_page.render(
        Path(__file__).with_name("page.html.j2"),
        name=folder.resolve().name,
        num_rows=sum(sum(figure["rows"].values()) for name, figure in found["sources"].items() if name != ALL),
        tables=tables(found),
        templates=found["templates"],
        examples=[_example(folder, fact, rows[fact.split, fact.number], records) for fact in sample],
    )
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")


def _sample(facts: Sequence[Fact], seed: int) -> list[Fact]:
    """At most NUM_EXAMPLES random rows, from the sources in turn, so that small sources are shown too."""
    by_source: dict[str, list[Fact]] = defaultdict(list)
    for fact in facts:
        by_source[fact.source].append(fact)
    rng = random.Random(f"inspect-{seed}")
    drawn = [rng.sample(by_source[name], min(NUM_EXAMPLES, len(by_source[name]))) for name in sorted(by_source)]
    return [part[turn] for turn in range(NUM_EXAMPLES) for part in drawn if turn < len(part)][:NUM_EXAMPLES]


def _example(folder: Path, fact: Fact, row: Row, records: StoredRecords) -> dict[str, Any]:
    record = records.find(fact.record_id)
    assert record, "read_facts found the record of each row"
    responses = []
    if isinstance(record, PairRecord):
        shown = record.shown(fact.order)
        responses = [shown.response_1, shown.response_2]
    return {
        "fact": fact,
        "category": record.category,
        "images": [_picture_uri(folder, path) for path in row["images"]],
        "question": record.question,
        "responses": responses,
        "prompt": row["prompt"][0]["content"],
    }


def _picture_uri(folder: Path, path: str) -> str:
    """The picture as a data URI, reduced so that no side is longer than PICTURE_PIXELS. ValueError if it cannot be shown."""
    file = (folder / path).resolve()
    if path_problem(path) or not file.is_relative_to(folder.resolve()):
        raise ValueError(f"{folder}: image {path!r} is not inside the folder; `critic-r1 data validate {folder}` lists all such rows")
    buffer = io.BytesIO()
    try:
        picture = read(file_bytes(file))
    except (BadImage, OSError) as error:
        raise ValueError(f"{file}: does not open ({error}); `critic-r1 data validate {folder}` lists all such rows") from error
    kind = "JPEG" if file.suffix == ".jpg" else "PNG"
    picture.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    picture.save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
