# SPDX-License-Identifier: Apache-2.0
"""Which records are in a benchmark already: by their pictures, or by a question that is asked there and hardly anywhere else.

What a benchmark may be is described in items.py. The rules, in this order:

image: same pixels        a picture decodes to the same pixels as one of the benchmark when that is prepared as for training
image: looks the same     perceptual hashes (imagehash.phash) at most MAX_DISTANCE of 64 bits apart, and the small grey pictures that
                          these hashes are made from correlate by MIN_CORRELATION or more; one without contrast never does
question: same words      apart from case, punctuation, white space and image placeholders
question: shared 8-grams  MIN_SHARE or more of the 8-grams of the shorter question are in the other

On pieces of two photographs, drawings, pages of text, bar charts and digits the second rule finds 1,596 of 1,600 copies (half as large, 1.7
times, as the builder stores it, JPEG at quality 30 or 50, grey, brighter) and takes 7 of 269,200 pairs of different pictures for the same,
where the hash alone takes 100. The two limits were chosen on these very pictures, so real ones may do worse. It is not made for crops:
without 2 % at each side it finds 77 of 200. The limits for questions are argued, not measured.

A question counts by its specific 8-grams only: those that are asked about at most COMMON_IMAGES pictures in the benchmarks, and in the
records. "Describe the image." has none, being short; the instructions of a multiple-choice set have none, being everywhere: such a question
matches only with its picture, and then the picture says so by itself.
"""

from collections.abc import Iterable, Sequence
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
"""Records whose pictures are compared at a time."""


@dataclass(frozen=True, slots=True)
class Match:
    """A record and the benchmark item it repeats. score is in [0, 1]: 1 for the same pixels or words, else the correlation or the share."""

    record_id: str
    source: str
    benchmark: str
    item_id: str
    reason: str
    score: float


def find(records: Iterable[Record], root: Path, items: Sequence[Item], limits: Limits) -> dict[str, Match]:
    """The strongest match of each record that repeats a benchmark item, by its pair_id or question_id.

    root holds the records' images, which were stored with these limits. Reads the records once; memory grows by some hundred bytes a record
    and some kilobytes an item. ValueError: a benchmark's picture that does not open.
    """
    from concurrent.futures import ThreadPoolExecutor

    matches: dict[str, Match] = {}
    # Decoding a picture needs no interpreter lock.
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
            hits.update(zip(new, pictures.look(list(pool.map(fingerprint, new.values()))), strict=True))
            for record in block:
                found = [hit for image in record.images if (hit := hits[image.sha256])]
                if found:
                    keep(record.record_id, record.source, max(found, key=lambda hit: hit[2]))
                questions.ask(record.record_id, record.source, record.question, "+".join(sorted(image.sha256 for image in record.images)))
    for record_id, source, hit in questions.hits():
        if record_id not in matches:
            keep(record_id, source, hit)
    return matches
