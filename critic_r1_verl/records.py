# SPDX-License-Identifier: Apache-2.0
"""Preference pairs and questions: frozen, validated, identified by a hash of their content, and stored one per line in JSONL files.

"1", "2" and "tie" name the better response everywhere, from the record to the model's box. A pair is shown to a model in one of two orders,
"12" (as recorded) or "21" (exchanged). The model's choice is in the shown frame, and to_record() converts it to the frame of the record.
A record holds the paths of its images relative to the data folder and the hashes of their bytes, so it means the same pixels everywhere.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Generic, Literal, TypeVar, cast, get_args

from critic_r1_verl.files import replacing

Choice = Literal["1", "2", "tie"]
"""The better response, or "tie" if neither is better."""

Order = Literal["12", "21"]
"""The order in which a model sees the two responses of a pair, relative to the record."""

CHOICES: tuple[Choice, ...] = get_args(Choice)
ORDERS: tuple[Order, ...] = get_args(Order)
SPLITS = ("train", "val", "test")

_SWAPPED: dict[str, Choice] = {"1": "2", "2": "1", "tie": "tie"}


def to_record(order: str, choice: str | None) -> Choice | None:
    """Convert a choice from the shown frame of an order to the frame of the record, or the other way round. None stays None.

    ValueError for an unknown order.

    >>> to_record("21", "1"), to_record("12", "1"), to_record("21", "tie")
    ('2', '1', 'tie')
    """
    return _SWAPPED[choice] if _is_exchanged(order) and choice is not None else cast(Choice | None, choice)


def _is_exchanged(order: str) -> bool:
    if order not in ORDERS:
        raise ValueError(f"order {order!r}: give '12' (as in the record) or '21' (exchanged)")
    return order == "21"


def path_problem(path: str) -> str | None:
    """What is wrong with an image path, or None. It must be a plain relative POSIX path that stays in its folder."""
    if not path or any(char in path for char in "\0\\") or str(PurePosixPath(path)) != path or path == ".":
        return "is not a plain relative POSIX path"
    if path.startswith("/") or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", path):
        return "is absolute; it must be relative to the data folder"
    if ".." in path.split("/"):
        return "leaves the data folder by '..'"
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """One image file: its path relative to the data folder, and the sha256 of its bytes in hexadecimal. ValueError names a bad key."""

    path: str
    sha256: str

    def __post_init__(self) -> None:
        _check_texts(self, required=("path",))
        if problem := path_problem(self.path):
            raise ValueError(f"key 'path': {self.path!r} {problem}")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"key 'sha256': {self.sha256!r} is not 64 lower-case hexadecimal digits")


@dataclass(frozen=True, kw_only=True, slots=True)
class PairRecord:
    """Two responses to one question about images, of which there may be none, and which of them is better.

    question includes earlier turns of a dialogue. Records with the same group must be in the same split; by default group is made of the
    hashes of the images, or, if there are none, of that of the words of the question. split is "" until the corpus or the build assigns the
    record to a split. ValueError names a malformed key; a preference between two identical responses is malformed too.

    >>> image = Image(path="images/cat.png", sha256="0" * 64)
    >>> pair = PairRecord(images=(image,), question="What is it?", response_1="A cat.", response_2="A dog.", preferred="1", source="demo")
    >>> pair.swap().preferred, pair.swap().pair_id == pair.pair_id
    ('2', True)
    """

    images: tuple[Image, ...]
    question: str
    response_1: str
    response_2: str
    preferred: Choice
    source: str
    category: str = ""
    licence: str = ""
    group: str = ""
    split: str = ""

    def __post_init__(self) -> None:
        _check_texts(self, required=("question", "source"))
        _check_images(self)
        if self.preferred not in CHOICES:
            raise ValueError(f"key 'preferred': {self.preferred!r} is none of '1', '2', 'tie'")
        if self.response_1 == self.response_2 and self.preferred != "tie":
            raise ValueError("key 'preferred': the two responses are identical, so neither is better; skip the pair or call it a 'tie'")

    @property
    def pair_id(self) -> str:
        """A hash of the content without the label, as 20 hexadecimal digits. A record and its swap have the same one."""
        return _content_id("pair", self.images, self.question, *sorted((self.response_1, self.response_2)))

    record_id = pair_id

    def swap(self) -> "PairRecord":
        """The same pair with the responses exchanged and the label changed accordingly."""
        return replace(self, response_1=self.response_2, response_2=self.response_1, preferred=_SWAPPED[self.preferred])

    def shown(self, order: str) -> "PairRecord":
        """The pair as a model sees it in this order: response_1 comes first, preferred is in the shown frame. ValueError as to_record()."""
        return self.swap() if _is_exchanged(order) else self

    def to_json(self) -> dict[str, Any]:
        """A dictionary for json.dumps, from which from_json makes an equal record. Its first key is the pair_id."""
        return {"pair_id": self.pair_id} | _to_json(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "PairRecord":
        """The record of such a dictionary, which may lack the pair_id. ValueError names a missing, unknown or malformed key."""
        return _from_json(cls, data, "pair_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionRecord:
    """One question about images, of which there may be none, and its correct answer. Keys and errors are as in PairRecord.

    answer "" is one that nobody knows. Such a question is in the split train, because nothing can be measured on it; there a critic may
    reward what is answered. key tells questions apart whose images are not in the record, such as by the benchmark's own numbers; "" where
    the content does.
    """

    images: tuple[Image, ...]
    question: str
    answer: str
    source: str
    category: str = ""
    licence: str = ""
    group: str = ""
    split: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        _check_texts(self, required=("question", "source"))
        _check_images(self)
        if not self.answer.strip():
            if self.split not in ("", "train"):
                raise ValueError(f"key 'answer': is empty, and a question of the split {self.split} needs one")
            object.__setattr__(self, "answer", "")
            object.__setattr__(self, "split", "train")

    @property
    def question_id(self) -> str:
        """A hash of the content without the answer, as 20 hexadecimal digits."""
        return _content_id("question", self.images, self.question, *filter(None, [self.key]))

    record_id = question_id

    def to_json(self) -> dict[str, Any]:
        """A dictionary for json.dumps, from which from_json makes an equal record. Its first key is the question_id."""
        content = {"question_id": self.question_id} | _to_json(self)
        return content if self.key else {name: value for name, value in content.items() if name != "key"}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "QuestionRecord":
        """The record of such a dictionary, which may lack the question_id. ValueError names a missing, unknown or malformed key."""
        return _from_json(cls, data, "question_id")


Record = PairRecord | QuestionRecord
AnyRecord = TypeVar("AnyRecord", PairRecord, QuestionRecord)


def record_from_json(data: Any) -> Record:
    """The record of a dictionary: a question if it has the key "answer", else a pair. ValueError as for from_json."""
    return (QuestionRecord if isinstance(data, dict) and "answer" in data else PairRecord).from_json(data)


@dataclass(frozen=True, slots=True)
class RecordFile(Generic[AnyRecord]):
    """The records of one kind in a JSONL file, in file order. Each iteration reads the file again, so they are never all in memory.

    The file may hold pairs and questions. Only records of type `cls` are yielded, and only those of `split` unless it is "". Blank lines
    are skipped. ValueError names file, line and key.
    """

    path: Path
    cls: type[AnyRecord]
    split: str = ""

    def __iter__(self) -> Iterator[AnyRecord]:
        for record in read_records(self.path):
            if isinstance(record, self.cls) and self.split in ("", record.split):
                yield record


def read_records(path: str | Path) -> Iterator[Record]:
    """All pairs and questions of a JSONL file, in file order. ValueError names file, line and key."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; prepare the data first, or correct the path")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield record_from_json(json.loads(line.decode("utf-8")))
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{path}:{number}: not a record: {error}") from error


def write_jsonl(path: str | Path, records: Iterable[Record]) -> None:
    """Write one record per line in UTF-8. The file appears only when it is complete, and the same records give the same bytes."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")


def _check_texts(record: Any, required: tuple[str, ...]) -> None:
    for field in fields(record):
        if field.name == "images":
            continue
        value = getattr(record, field.name)
        if not isinstance(value, str):
            raise ValueError(f"key {field.name!r}: {value!r} is not a string")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"key {field.name!r}: contains a lone surrogate, which UTF-8 cannot encode; replace it") from error
        if field.name == "split" and value not in ("", *SPLITS):
            raise ValueError(f"key 'split': {value!r} is none of {', '.join(SPLITS)}")
        if field.name in required and not value.strip():
            raise ValueError(f"key {field.name!r}: is empty")


def _check_images(record: PairRecord | QuestionRecord) -> None:
    if not isinstance(record.images, tuple) or not all(isinstance(image, Image) for image in record.images):
        raise ValueError(f"key 'images': {record.images!r} is not a tuple of Image")
    if not record.group:
        things = {image.sha256 for image in record.images} or {_question_group(record.question)}
        object.__setattr__(record, "group", "+".join(sorted(things)))


def _question_group(question: str) -> str:
    """A hash of the words of a question, by which records without an image are grouped. Case and white space do not count."""
    return hashlib.sha256(" ".join(question.casefold().split()).encode()).hexdigest()


def _content_id(kind: str, images: tuple[Image, ...], *texts: str) -> str:
    content = json.dumps([kind, [image.sha256 for image in images], *texts])
    return hashlib.sha256(content.encode("ascii")).hexdigest()[:20]


def _to_json(record: PairRecord | QuestionRecord) -> dict[str, Any]:
    return asdict(record) | {"images": [asdict(image) for image in record.images]}


def _from_json(cls: type[AnyRecord], data: Any, id_key: str) -> AnyRecord:
    stated_id = None
    if isinstance(data, dict):
        data = dict(data)
        stated_id = data.pop(id_key, None)
    check_keys(cls, data)
    images = data["images"]
    if not isinstance(images, list):
        raise ValueError(f"key 'images': {images!r} is not a list")
    for number, image in enumerate(images):
        check_keys(Image, image, where=f"images[{number}]: ")
    record = cls(**data | {"images": tuple(Image(**image) for image in images)})
    if stated_id is not None and stated_id != record.record_id:
        raise ValueError(f"key {id_key!r}: {stated_id!r} does not match the content, which gives {record.record_id!r}")
    return record


def check_keys(cls: type, data: Any, where: str = "") -> None:
    """ValueError, beginning with `where`, unless the keys of data are the fields of cls. Fields with a default may be missing."""
    if not isinstance(data, dict):
        raise ValueError(f"{where}{data!r:.80} is not a JSON object")
    names = [field.name for field in fields(cls)]
    if missing := [field.name for field in fields(cls) if field.default is MISSING and field.name not in data]:
        raise ValueError(f"{where}key {missing[0]!r} is missing; the keys are {', '.join(names)}")
    if unknown := [name for name in data if name not in names]:
        raise ValueError(f"{where}key {unknown[0]!r} is unknown; the keys are {', '.join(names)}")
