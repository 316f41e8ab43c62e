# SPDX-License-Identifier: Apache-2.0
"""Preference pairs and questions: frozen, validated, identified by their content, kept one a line in JSONL files.

One vocabulary, "1" | "2" | "tie", names the better response from the record to the box. Images are files in a data folder; a record
knows their paths relative to that folder and the hashes of their bytes, so the same record means the same pixels on every machine.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Any, Generic, Literal, TypeVar

Preferred = Literal["1", "2", "tie"]

_SWAPPED: dict[Preferred, Preferred] = {"1": "2", "2": "1", "tie": "tie"}


def path_problem(path: str) -> str | None:
    """What is wrong with an image path, or None: it must be a plain relative POSIX path that cannot leave its folder."""
    if not path or any(char in path for char in "\0\\") or str(PurePosixPath(path)) != path or path == ".":
        return "is not a plain relative POSIX path"
    if path.startswith("/") or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", path):
        return "is absolute; it must be relative to the data folder"
    if ".." in path.split("/"):
        return "leaves the data folder by '..'"
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """One image file: its path relative to the data folder's root, and the sha256 of its bytes in hexadecimal."""

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
    """Two responses to one question about one or more images, and which of them is better.

    Earlier turns of a dialogue are folded into question. group names what must stay on one side of a split; by default the hashes of
    the images. Raises ValueError, naming the key, for anything malformed, and for a preference between two identical responses.

    >>> image = Image(path="images/cat.png", sha256="0" * 64)
    >>> pair = PairRecord(images=(image,), question="What is it?", response_1="A cat.", response_2="A dog.", preferred="1", source="demo")
    >>> pair.swap().preferred, pair.swap().pair_id == pair.pair_id
    ('2', True)
    """

    images: tuple[Image, ...]
    question: str
    response_1: str
    response_2: str
    preferred: Preferred
    source: str
    category: str = ""
    licence: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        _check_texts(self, required=("question", "source"))
        _check_images(self)
        if self.preferred not in _SWAPPED:
            raise ValueError(f"key 'preferred': {self.preferred!r} is none of '1', '2', 'tie'")
        if self.response_1 == self.response_2 and self.preferred != "tie":
            raise ValueError("key 'preferred': the two responses are identical, so neither is better; skip the pair or call it a 'tie'")

    @property
    def pair_id(self) -> str:
        """20 hexadecimal digits of the content without the label; the same for the record and its swap."""
        return _content_id("pair", self.images, self.question, *sorted((self.response_1, self.response_2)))

    def swap(self) -> "PairRecord":
        """The same pair with the responses, and with them the label, exchanged."""
        return replace(self, response_1=self.response_2, response_2=self.response_1, preferred=_SWAPPED[self.preferred])

    def to_json(self) -> dict[str, Any]:
        """A dictionary that json.dumps accepts and from_json turns back into an equal record."""
        return _to_json(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "PairRecord":
        """The record of such a dictionary. ValueError names a missing, unknown or malformed key."""
        return cls(**_arguments(cls, data))


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionRecord:
    """One question about one or more images, with the answer that counts as right. Keys and errors as in PairRecord."""

    images: tuple[Image, ...]
    question: str
    answer: str
    source: str
    category: str = ""
    licence: str = ""
    group: str = ""

    def __post_init__(self) -> None:
        _check_texts(self, required=("question", "answer", "source"))
        _check_images(self)

    @property
    def question_id(self) -> str:
        """20 hexadecimal digits of the content without the answer."""
        return _content_id("question", self.images, self.question)

    def to_json(self) -> dict[str, Any]:
        """A dictionary that json.dumps accepts and from_json turns back into an equal record."""
        return _to_json(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "QuestionRecord":
        """The record of such a dictionary. ValueError names a missing, unknown or malformed key."""
        return cls(**_arguments(cls, data))


Record = TypeVar("Record", PairRecord, QuestionRecord)


@dataclass(frozen=True, slots=True)
class RecordFile(Generic[Record]):
    """The records of a JSONL file, in its order, read anew each time it is gone through, so that they need not all be held.

    Blank lines do not count. ValueError names the file, the line and the key.
    """

    path: Path
    cls: type[Record]

    def __iter__(self) -> Iterator[Record]:
        if not self.path.is_file():
            raise ValueError(f"{self.path}: no such file; prepare the data first, or correct the path")
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    try:
                        yield self.cls.from_json(json.loads(line.decode("utf-8")))
                    except (ValueError, RecursionError) as error:
                        raise ValueError(f"{self.path}:{number}: not a {self.cls.__name__}: {error}") from error


def read_jsonl(path: str | Path, cls: type[Record]) -> list[Record]:
    """All records of a JSONL file, as RecordFile reads them."""
    return list(RecordFile(Path(path), cls))


def write_jsonl(path: str | Path, records: Iterable[PairRecord | QuestionRecord]) -> None:
    """Write one record a line, UTF-8; the same records give the same bytes, and the file appears only when it is complete."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        for record in records:
            file.write(json.dumps(record.to_json(), ensure_ascii=False) + "\n")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside path that takes its place when the block ends well, and is removed when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        # A full disk does not say which file was being written.
        if error.errno is None or error.filename:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


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
            raise ValueError(f"key {field.name!r}: holds a lone surrogate, which no UTF-8 file can; replace it") from error
        if field.name in required and not value.strip():
            raise ValueError(f"key {field.name!r}: is empty")


def _check_images(record: PairRecord | QuestionRecord) -> None:
    if not isinstance(record.images, tuple) or not record.images or not all(isinstance(image, Image) for image in record.images):
        raise ValueError(f"key 'images': {record.images!r} is not a non-empty tuple of Image")
    if not record.group:
        object.__setattr__(record, "group", "+".join(sorted({image.sha256 for image in record.images})))


def _content_id(kind: str, images: tuple[Image, ...], *texts: str) -> str:
    content = json.dumps([kind, [image.sha256 for image in images], *texts])
    return hashlib.sha256(content.encode("ascii")).hexdigest()[:20]


def _to_json(record: PairRecord | QuestionRecord) -> dict[str, Any]:
    data = {field.name: getattr(record, field.name) for field in fields(record)}
    return data | {"images": [{"path": image.path, "sha256": image.sha256} for image in record.images]}


def _arguments(cls: type, data: Any) -> dict[str, Any]:
    """Constructor arguments from JSON data, after its keys are checked against the fields of cls."""
    _check_keys(cls, data, where="")
    images = data["images"]
    if not isinstance(images, list):
        raise ValueError(f"key 'images': {images!r} is not a list")
    for number, image in enumerate(images):
        _check_keys(Image, image, where=f"images[{number}]: ")
    return data | {"images": tuple(Image(**image) for image in images)}


def _check_keys(cls: type, data: Any, where: str) -> None:
    optional = {"category", "licence", "group"}
    if not isinstance(data, dict):
        raise ValueError(f"{where}not a JSON object")
    names = [field.name for field in fields(cls)]
    if missing := [name for name in names if name not in data and name not in optional]:
        raise ValueError(f"{where}key {missing[0]!r} is missing")
    if unknown := [name for name in data if name not in names]:
        raise ValueError(f"{where}key {unknown[0]!r} is unknown; the keys are {', '.join(names)}")
