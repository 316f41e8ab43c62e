# SPDX-License-Identifier: Apache-2.0
"""The golden table of formats, read by everything that reads images. tests/e2e/test_images.py compares it with qwen_vl_utils.

Each file shows four areas of 48 x 32 pixels. The table has their colours from left to right and from top to bottom, as they must be read.
"""

import base64
import io
import json
import os
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from critic_r1_verl import images
from critic_r1_verl.benchmarks import reading
from critic_r1_verl.engines.base import Request, Sampling
from critic_r1_verl.engines.vllm import VllmEngine
from critic_r1_verl.images import BadImage, Limits, check, data_uri, open_rgb, prepare, read
from critic_r1_verl.report import page as report_page
from critic_r1_verl.rows import _image_problems
from data_prep.contamination.pictures import fingerprint
from data_prep.image_store import ImageStore
from data_prep.inspection import page as inspection_page

sys.path.insert(0, str(Path(__file__).parent))
from image_formats import FILES, bomb, encoded

GOLDEN = json.loads((Path(__file__).parent / "golden/images.json").read_text(encoding="utf-8"))
LIMITS = Limits(56 * 56, 280 * 280)
LOSSY = 6


def pixels(picture: Any) -> bytes:
    assert picture.mode == "RGB"
    return f"{picture.size}".encode() + picture.tobytes()


def as_a_server_reads(uri: str) -> Any:
    kind, _, content = uri.removeprefix("data:").partition(";base64,")
    picture = Pillow.open(io.BytesIO(base64.b64decode(content)))
    assert kind == Pillow.MIME["JPEG" if picture.format == "MPO" else picture.format]
    return picture.convert("RGB")


def test_the_table_is_complete() -> None:
    assert FILES.keys() == GOLDEN.keys()


@pytest.mark.parametrize("name", FILES)
def test_each_format_is_read_as_the_table_says(name: str) -> None:
    data, expected = FILES[name](), GOLDEN[name]
    picture, facts = read(data), check(data)
    width, height = picture.size
    found = [picture.getpixel((x, y)) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    allowed = LOSSY if expected.get("lossy") else 0
    assert np.abs(np.subtract(found, expected["areas"])).max() <= allowed, found
    assert [width, height] == expected.get("size", [96, 64]) == list(facts.size)
    assert facts.plain is expected.get("plain", False)


def built(file: Path, folder: Path) -> Any:
    """What a build stores; it is plain, so that verl, which reads it by qwen_vl_utils, gets the pixels in the file."""
    stored = ImageStore(folder, LIMITS).put(file.read_bytes())
    assert _image_problems([stored.path], folder) == []
    with Pillow.open(folder / stored.path) as picture:
        return picture.convert("RGB")


def benchmark(file: Path, folder: Path) -> Any:
    stored = reading.store(reading.Row({}, "here", file, file.parent), file.name, folder)
    assert (folder / stored.path).read_bytes() == file.read_bytes()
    return open_rgb(folder / stored.path)


def in_process(file: Path, _: Path) -> Any:
    engine = object.__new__(VllmEngine)
    engine._processor = SimpleNamespace(apply_chat_template=lambda *_, **__: "")
    engine._last_images = (), []
    [picture] = engine._prompt(Request("<image>", (file,), Sampling(1)))["multi_modal_data"]["image"]
    return picture


CONSUMERS: dict[str, Callable[[Path, Path], Any]] = {
    "build": built,
    "benchmark": benchmark,
    "engine": in_process,
    "endpoint": lambda file, _: as_a_server_reads(data_uri(file)),
    "report": lambda file, _: as_a_server_reads(report_page._picture_uri(file.parent, SimpleNamespace(path=file.name))),
    "inspection": lambda file, _: as_a_server_reads(inspection_page._picture_uri(file.parent, file.name)),
}


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_everything_reads_the_same_pixels(tmp_path: Path, consumer: str) -> None:
    different = []
    for number, name in enumerate(FILES):
        file = tmp_path / f"{number}.image"
        file.write_bytes(FILES[name]())
        found = CONSUMERS[consumer](file, tmp_path / "out")
        different += [] if pixels(found) == pixels(read(file.read_bytes())) else [name]
    assert different == []


def test_contamination_compares_what_is_read(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / "a").write_bytes(data := FILES[name]())
        stored = ImageStore(tmp_path, LIMITS).put(data)
        assert fingerprint(tmp_path / "a", LIMITS).pixels == fingerprint(tmp_path / stored.path).pixels, name


def test_validate_names_a_file_that_verl_would_read_otherwise(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / "a.png").write_bytes(FILES[name]())
        problems = _image_problems(["a.png"], tmp_path)
        assert bool(problems) is not GOLDEN[name].get("plain", False), name
    assert "verl would read other pixels" in problems[0]


def test_a_plain_file_is_sent_unchanged(tmp_path: Path) -> None:
    for name in ("png", "jpeg", "jpeg, MPO"):
        (tmp_path / name).write_bytes(data := FILES[name]())
        assert base64.b64decode(data_uri(tmp_path / name).partition(",")[2]) == data


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    (file := tmp_path / "a.png").write_bytes(FILES["png"]())
    before = data_uri(file)
    file.write_bytes(FILES["png, alpha"]())
    os.utime(file, ns=(1, 1))
    assert data_uri(file) != before


HOSTILE = {
    "nothing": (b"", "not an image in a known format"),
    "text": (b"<html>", "not an image in a known format"),
    "another format": (encoded(Pillow.new("RGB", (8, 8)), "PPM"), "not an image in a known format"),
    "a bomb": (bomb(12_000, 9_000), "too many pixels"),
    "a larger bomb": (bomb(30_000, 9_000), "too many pixels"),
    "png cut short": (encoded(Pillow.effect_noise((64, 64), 90), "PNG")[:-60], "truncated or corrupt"),
    "jpeg cut short": (encoded(Pillow.effect_noise((64, 64), 90), "JPEG")[:-60], "truncated or corrupt"),
    "negative levels": (encoded(Pillow.fromarray(np.full((8, 8), -1, np.int32)), "TIFF"), "pixels of unknown range"),
    "no number": (encoded(Pillow.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"), "pixels of unknown range"),
    "levels without end": (encoded(Pillow.fromarray(np.full((8, 8), np.inf, np.float32)), "TIFF"), "pixels of unknown range"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("reader", [open_rgb, data_uri])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, reader: Callable[[Path], Any], name: str) -> None:
    data, reason = HOSTILE[name]
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.png: the image does not open \({reason}\); restore the file"):
        reader(tmp_path / "a.png")
    with pytest.raises(ValueError, match=rf"^row 7: the image does not open \({reason}\); download it again"):
        reading.store(reading.Row({}, "row 7", tmp_path / "x", tmp_path), data or {"bytes": b""}, tmp_path / "out")
    for read_bytes in (read, check, lambda data: prepare(data, LIMITS)):
        with pytest.raises(BadImage, match=f"^{reason}$"):
            read_bytes(data)


@pytest.mark.parametrize("reader", [open_rgb, data_uri])
def test_a_missing_or_huge_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Callable[[Path], Any]) -> None:
    with pytest.raises(ValueError, match=r"gone\.png: the image does not open \(.*No such file.*\); restore the file"):
        reader(tmp_path / "gone.png")
    (tmp_path / "a.png").write_bytes(FILES["png"]())
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 10)
    with pytest.raises(ValueError, match=r"a\.png: the image does not open \(file is too large\)"):
        reader(tmp_path / "a.png")


def test_damaged_metadata_does_not_hide_a_picture() -> None:
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12"):
        data = encoded(Pillow.new("RGB", (8, 4), "red"), "JPEG", exif=exif)
        assert read(data).size == (8, 4) and check(data).plain


def test_images_are_read_from_several_threads_without_touching_the_filters_of_warnings() -> None:
    with warnings.catch_warnings():
        warnings.resetwarnings()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(read, [FILES["png, palette with a transparent colour"](), FILES["gif, animated"]()] * 20))
        assert {entry[3].pattern for entry in warnings.filters if entry[3]} == {r"PIL\."} and len(warnings.filters) < 5
