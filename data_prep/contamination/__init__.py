# SPDX-License-Identifier: Apache-2.0
"""Finds records that repeat an item of a benchmark: by their pictures, or by a question that is specific to the benchmark.

items.py describes what can be given as a benchmark. The rules, in this order:

image: same pixels        a picture decodes to the same pixels as one of the benchmark when that is prepared as for training
image: looks the same     perceptual hashes (imagehash.phash) at most MAX_DISTANCE of 64 bits apart, and the small grey pictures that
                          these hashes are made from correlate by MIN_CORRELATION or more; a picture without contrast never matches
question: same words      ignoring case, punctuation, white space and image placeholders
question: shared 8-grams  MIN_SHARE or more of the 8-grams of the shorter question are in the other

On pieces of two photographs, drawings, pages of text, bar charts and digits the second rule finds 1,596 of 1,600 copies (half as large, 1.7
times, as the builder stores it, JPEG at quality 30 or 50, grey, brighter) and takes 7 of 269,200 pairs of different pictures for the same,
where the hash alone takes 100. The two limits were chosen on the same pictures, so the results on others may be worse. The rule does not
find crops well: if 2 % is cut off at each side, it finds 77 of 200. The limits for questions were chosen by reasoning, not measured.

Only the specific 8-grams of a question count: those that are asked about at most COMMON_IMAGES pictures in the benchmarks, and likewise in
the records. "Describe the image." is too short to have any, and the instructions of a multiple-choice set are too common. Such a question
never matches; only its picture can. Two questions without a picture match by the same words, however few.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from critic_r1_verl.images import Limits
from critic_r1_verl.records import Record
from data_prep.contamination.items import Hit, Item, load
from data_prep.contamination.pictures import Pictures, fingerprint
from data_prep.contamination.questions import Questions

__all__ = ["Item", "Match", "find", "load"]

BLOCK = 256
"""Number of records whose pictures are compared at once."""


@dataclass(frozen=True, slots=True)
class Match:
    """A record and the benchmark item that it repeats. score in [0, 1]: 1 for the same pixels or words, else the correlation or share."""

    record_id: str
    source: str
    benchmark: str
    item_id: str
    reason: str
    score: float


def find(records: Iterable[Record], root: Path, items: Sequence[Item], limits: Limits) -> dict[str, Match]:
    """{pair_id or question_id: best match} of the records that repeat a benchmark item.

    root holds the images of the records, which were stored with these limits. The records are read once. Memory use: a few hundred bytes
    for each record and a few kilobytes for each item. ValueError names a picture that does not open.
    """
    matches: dict[str, Match] = {}
    # Threads help, because decoding a picture releases the interpreter lock.
    with ThreadPoolExecutor() as pool:
        pictures = Pictures(items, limits, pool)
        questions = Questions(items)
        hits: dict[str, Hit | None] = {}

        def keep(record_id: str, source: str, hit: Hit) -> None:
            item, reason, score = hit
            matches[record_id] = Match(record_id, source, items[item].benchmark, items[item].item_id, reason, round(score, 4))

        stream = iter(records)
        while block := list(islice(stream, BLOCK)):
            new = {image.sha256: root / image.path for record in block for image in record.images if image.sha256 not in hits}
            hits.update(zip(new, pictures.find(list(pool.map(fingerprint, new.values()))), strict=True))
            for record in block:
                found = [hit for image in record.images if (hit := hits[image.sha256])]
                if found:
                    keep(record.record_id, record.source, max(found, key=lambda hit: hit[2]))
                questions.add(record.record_id, record.source, record.question, "+".join(sorted(image.sha256 for image in record.images)))
    for record_id, source, hit in questions.hits():
        if record_id not in matches:
            keep(record_id, source, hit)
    return matches
