# SPDX-License-Identifier: Apache-2.0
"""How an engine gets an image: as pixels, or as the bytes of its file. What a data build stores is in test_image_store.py."""

import base64
from pathlib import Path

import pytest
from PIL import Image

from critic_r1_verl.images import data_uri, open_rgb


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK"])
def test_pixels_are_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
    Image.new(mode, (6, 4)).save(file)
    image = open_rgb(file)
    assert (image.mode, image.size) == ("RGB", (6, 4))


@pytest.mark.parametrize("content", [None, b"", b"\x89PNG no", b"<html>"])
def test_an_image_that_does_not_open_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "a.png"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png: the image does not open .*; restore the file"):
        open_rgb(file)


@pytest.mark.parametrize(("name", "kind"), [("a.png", "image/png"), ("a.jpg", "image/jpeg"), ("a", "image/png")])
def test_a_data_uri_carries_the_bytes_of_the_file(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_bytes(b"bytes")
    assert data_uri(tmp_path / name) == f"data:{kind};base64,{base64.b64encode(b'bytes').decode()}"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.png: the image cannot be read .*; restore the file"):
        data_uri(tmp_path / "gone.png")
