# SPDX-License-Identifier: Apache-2.0
"""Which records are in a benchmark already: by their pictures, or by a question that is asked there and hardly anywhere else.

A benchmark is a public one by its name (critic_r1_verl/benchmarks/; NAME alone is its hub id, NAME:PATH a file or folder), a JSONL file of
records, a parquet file built by data_prep, or a corpus, by NAME or NAME:PATH. Rules, in this order:

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

import hashlib
import io
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from critic_r1_verl import benchmarks
from critic_r1_verl.images import BadImage, Limits, prepare
from critic_r1_verl.records import PairRecord, QuestionRecord, Record, RecordFile
from data_prep import inspection, sources
from data_prep.corpora import MODULES
from data_prep.corpus import SchemaError, Skip
from data_prep.image_store import ImageStore
from data_prep.validate import stream_rows

MAX_DISTANCE = 8
MIN_CORRELATION = 0.97
MIN_SHARE = 0.5
GRAM_WORDS = 8
COMMON_IMAGES = 5
BLOCK = 256

_PLACEHOLDER = re.compile(r"< *(?:image|video|audio) *>")
# A word of letters and digits, or one character of a script that is written without spaces.
_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


@dataclass(frozen=True, slots=True)
class Match:
    """A record and the benchmark item it repeats. score is in [0, 1]: 1 for the same pixels or words, else the correlation or the share."""

    record_id: str
    source: str
    benchmark: str
    item_id: str
    reason: str
    score: float


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a benchmark: what find() compares with."""

    benchmark: str
    item_id: str
    images: tuple[Path, ...]
    question: str


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """One picture: sha256 of its size and pixels, phash as uint64, its small grey picture as float32[1024] of mean 0, length 1 or 0."""

    pixels: bytes
    phash: Any
    pattern: Any


Hit = tuple[int, str, float]
"""Position of an item, reason, score."""


def find(records: Iterable[Record], root: Path, items: Sequence[Item], limits: Limits) -> dict[str, Match]:
    """The strongest match of each record that repeats a benchmark item, by its pair_id or question_id.

    root holds the records' images, which were stored with these limits. Reads the records once; memory grows by some hundred bytes a record
    and some kilobytes an item. ValueError: a benchmark's picture that does not open.
    """
    from concurrent.futures import ThreadPoolExecutor

    matches: dict[str, Match] = {}
    # Decoding a picture needs no interpreter lock.
    with ThreadPoolExecutor() as pool:
        pictures = _Pictures(items, limits, pool)
        questions = _Questions(items)
        hits: dict[str, Hit | None] = {}

        def keep(record_id: str, source: str, hit: Hit) -> None:
            item, reason, score = hit
            matches[record_id] = Match(record_id, source, items[item].benchmark, items[item].item_id, reason, round(score, 4))

        stream = iter(records)
        while block := list(islice(stream, BLOCK)):
            new = {image.sha256: root / image.path for record in block for image in record.images if image.sha256 not in hits}
            hits.update(zip(new, pictures.look(list(pool.map(fingerprint, new.values()))), strict=True))
            for record in block:
                record_id = record.pair_id if isinstance(record, PairRecord) else record.question_id
                found = [hit for image in record.images if (hit := hits[image.sha256])]
                if found:
                    keep(record_id, record.source, max(found, key=lambda hit: hit[2]))
                questions.ask(record_id, record.source, record.question, "+".join(sorted(image.sha256 for image in record.images)))
    for record_id, source, hit in questions.hits():
        if record_id not in matches:
            keep(record_id, source, hit)
    return matches


def load(benchmark: str, work: Path, limits: Limits) -> Iterator[Item]:
    """The items of a benchmark; pictures that are not files yet are stored under work. ValueError if it cannot be read or holds nothing."""
    name, _, location = benchmark.partition(":")
    if name in MODULES:
        items = _from_corpus(benchmark, name, location, work, limits)
    elif name in benchmarks.MODULES:
        items = (_item(benchmark, record, work) for record in benchmarks.load(name, work, location))
    elif benchmark.endswith(".jsonl"):
        items = _from_records(benchmark, Path(benchmark))
    elif benchmark.endswith(".parquet"):
        items = _from_rows(benchmark, Path(benchmark))
    else:
        raise ValueError(
            f"--decontaminate {benchmark}: give a .jsonl file of records, a .parquet file built by data_prep, or NAME[:PATH] with one of "
            f"{', '.join(sorted(MODULES.keys() | benchmarks.MODULES.keys()))}"
        )
    first = next(items, None)
    if first is None:
        raise ValueError(f"--decontaminate {benchmark}: no item in it can be used, so nothing would be checked")
    yield first
    yield from items


def _from_records(benchmark: str, file: Path) -> Iterator[Item]:
    """Pairs or questions, as the first line says: a quote inside a text is escaped, so this can only be a key."""
    first = b""
    if file.is_file():
        with file.open("rb") as stream:
            first = next(filter(bytes.strip, stream), b"")
    kind: Any = QuestionRecord if b'"answer":' in first else PairRecord
    for record in list(RecordFile(Path(file), kind)):
        yield _item(benchmark, record, file.parent)


def _from_rows(benchmark: str, file: Path) -> Iterator[Item]:
    templates = inspection.known_templates(inspection.read_manifest(file.parent))
    for number, row in enumerate(stream_rows(file)):
        # Where the division is uncertain the question is too short rather than too long: its 8-grams are still its own.
        values, _ = inspection.read_prompt(row, templates)
        if not values:
            raise ValueError(f"{file}: row {number}: not made by a prompt template of this checkout; give the benchmark's records instead")
        yield Item(benchmark, row["extra_info"]["pair_id"], tuple(file.parent / path for path in row["images"]), values["question"])


def _from_corpus(benchmark: str, name: str, location: str, work: Path, limits: Limits) -> Iterator[Item]:
    """What the corpus's converter makes of it; what it skips cannot be compared with, and is counted on stderr."""
    corpus = import_module(MODULES[name])
    skipped: Counter[str] = Counter()
    files = sources.find(location, corpus, None, work)
    sources.unpack(files)
    for file in files:
        table = sources.Table(file.path)
        if missing := sorted(corpus.COLUMNS - table.columns):
            raise SchemaError(f"--decontaminate {benchmark}: {file.path}: no column {missing[0]!r}")
        store = ImageStore(work, limits, file.images)
        for number, raw in enumerate(table.rows(0, len(table))):
            try:
                found = [raw] if isinstance(raw, Skip) else list(corpus.convert(raw, store.put))
            except BadImage as error:
                found = [Skip(f"image: {error.reason}")]
            except SchemaError as error:
                raise SchemaError(f"--decontaminate {benchmark}: {file.path}: row {number}: {error}") from error
            skipped.update(record.reason for record in found if isinstance(record, Skip))
            yield from (_item(benchmark, record, work) for record in found if not isinstance(record, Skip))
    if skipped:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common())
        print(f"--decontaminate {benchmark}: items left out of the comparison: {reasons}", file=sys.stderr)


def _item(benchmark: str, record: Record, root: Path) -> Item:
    record_id = record.pair_id if isinstance(record, PairRecord) else record.question_id
    return Item(benchmark, record_id, tuple(root / image.path for image in record.images), record.question)


# Pictures


def fingerprint(file: Path, limits: Limits | None = None) -> Fingerprint:
    """The fingerprint of an image file, with limits as the builder would store it. ValueError names a file that does not open."""
    import imagehash
    import numpy as np
    from PIL import Image

    try:
        data = file.read_bytes()
        if limits:
            data, _, _ = prepare(data, limits)
        with Image.open(io.BytesIO(data)) as picture:
            upright = picture.convert("RGB")
    # Pillow raises OSError, SyntaxError, struct.error and more on hostile bytes: here they all mean the same.
    except Exception as error:
        raise ValueError(f"{file}: does not open ({error}); correct or remove it") from error
    # What phash looks at: it would make the same small picture itself.
    small = upright.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    bits = imagehash.phash(small).hash
    pattern = np.asarray(small, dtype=np.float32).ravel()
    pattern = pattern - pattern.mean()
    length = float(np.linalg.norm(pattern))
    return Fingerprint(
        pixels=hashlib.sha256(f"{upright.size}".encode() + upright.tobytes()).digest(),
        phash=np.packbits(bits.ravel()).view(np.uint64)[0],
        # Under a grey level of deviation a pixel there is noise, no pattern.
        pattern=pattern / length if length > 32 else np.zeros_like(pattern),
    )


class _Pictures:
    """The benchmarks' distinct pictures: B of them, hashes uint64[B], patterns float32[B, 1024]."""

    def __init__(self, items: Sequence[Item], limits: Limits, pool: Any) -> None:
        import numpy as np

        owners: dict[Path, int] = {}
        for position, item in enumerate(items):
            for file in item.images:
                owners.setdefault(file, position)
        self._exact: dict[bytes, int] = {}
        hashes, patterns, self._owners = [], [], []
        for owner, print_ in zip(owners.values(), pool.map(lambda file: fingerprint(file, limits), owners), strict=True):
            if print_.pixels not in self._exact:
                self._exact[print_.pixels] = owner
                self._owners.append(owner)
                hashes.append(print_.phash)
                patterns.append(print_.pattern)
        self._hashes = np.array(hashes, dtype=np.uint64)
        self._patterns = np.array(patterns, dtype=np.float32).reshape(-1, 1024)

    def look(self, prints: Sequence[Fingerprint]) -> list[Hit | None]:
        """For each picture the item that has it, if one has: the same pixels before the best correlation."""
        import numpy as np

        if not prints:
            return []
        distances = np.bitwise_count(np.array([one.phash for one in prints])[:, None] ^ self._hashes[None, :])
        hits: list[Hit | None] = []
        for one, near in zip(prints, distances <= MAX_DISTANCE, strict=True):
            if one.pixels in self._exact:
                hits.append((self._exact[one.pixels], "image: same pixels", 1.0))
                continue
            candidates = np.flatnonzero(near)
            correlations = self._patterns[candidates] @ one.pattern
            best = int(correlations.argmax()) if len(candidates) else -1
            if best >= 0 and correlations[best] >= MIN_CORRELATION:
                hits.append((self._owners[candidates[best]], "image: looks the same", min(1.0, float(correlations[best]))))
            else:
                hits.append(None)
        return hits


# Questions


def words(question: str) -> list[str]:
    """The words of a question, in lower case, without punctuation and image placeholders.

    >>> words("<image>\\nWhat's the man's NAME?")
    ['what', 's', 'the', 'man', 's', 'name']
    """
    return _WORD.findall(_PLACEHOLDER.sub(" ", unicodedata.normalize("NFKC", question).casefold()))


def grams(words: Sequence[str]) -> set[str]:
    """All runs of GRAM_WORDS words; none of a shorter text."""
    return {" ".join(words[start : start + GRAM_WORDS]) for start in range(len(words) - GRAM_WORDS + 1)}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A record whose question shares 8-grams with a benchmark; num_grams are all of its own, item is the one with the same words."""

    record_id: str
    source: str
    shared: list[str]
    num_grams: int
    item: int | None


class _Questions:
    """The benchmarks' questions by their 8-grams, and the records that share some."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._grams: dict[int, set[str]] = {}
        self._texts: dict[str, int] = {}
        images: dict[str, set[tuple[Path, ...]]] = defaultdict(set)
        for position, item in enumerate(items):
            text = words(item.question)
            if self._texts.setdefault(" ".join(text), position) == position:
                self._grams[position] = grams(text)
            for gram in grams(text):
                images[gram].add(item.images)
        self._owners: dict[str, list[int]] = {gram: [] for gram, asked in images.items() if len(asked) <= COMMON_IMAGES}
        for position, found in self._grams.items():
            found &= self._owners.keys()
            for gram in found:
                self._owners[gram].append(position)
        self._images: dict[str, set[str]] = defaultdict(set)
        self._asked: list[_Asked] = []

    def ask(self, record_id: str, source: str, question: str, images: str) -> None:
        """Note a record's question; images says which pictures it is about."""
        text = words(question)
        own = grams(text)
        if shared := sorted(own & self._owners.keys()):
            for gram in shared:
                if len(self._images[gram]) <= COMMON_IMAGES:
                    self._images[gram].add(images)
            self._asked.append(_Asked(record_id, source, shared, len(own), self._texts.get(" ".join(text))))

    def hits(self) -> Iterator[tuple[str, str, Hit]]:
        """(record id, source, hit) for each record noted whose question is in a benchmark, by 8-grams that are specific on both sides."""
        common = {gram for gram, images in self._images.items() if len(images) > COMMON_IMAGES}
        num_specific = {position: len(found - common) for position, found in self._grams.items()}
        for asked in self._asked:
            specific = [gram for gram in asked.shared if gram not in common]
            if not specific:
                continue
            if asked.item is not None:
                yield asked.record_id, asked.source, (asked.item, "question: same words", 1.0)
                continue
            counts = Counter(owner for gram in specific for owner in self._owners[gram])
            num_own = asked.num_grams - (len(asked.shared) - len(specific))
            shares = {position: count / min(num_specific[position], num_own) for position, count in counts.items()}
            best = max(shares, key=lambda position: (shares[position], -position))
            if shares[best] >= MIN_SHARE:
                yield asked.record_id, asked.source, (best, f"question: shared {GRAM_WORDS}-grams", shares[best])
