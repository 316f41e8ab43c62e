# SPDX-License-Identifier: Apache-2.0
"""The one reading of an image that is given in any form: as bytes, as text that holds or names it, or in a dict around these."""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from critic_r1_verl.images import BadImage

_KEYS = ("bytes", "base64", "b64_json", "data", "image", "image_url", "url", "source", "path", "image_path", "file_name", "filename")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{40,}={0,2}")
# The first bytes of PNG, JPEG, GIF, WebP, BMP and TIFF.
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
_MAX_DEPTH = 5


def bare(raw: Any) -> Any:
    """What is in the dicts around an image: bytes, a text, or None if there is nothing. Anything that is no dict stays as it is.

    >>> bare({"type": "image_url", "image_url": {"url": "images/0.png"}}), bare({"bytes": None, "path": "0.png"})
    ('images/0.png', '0.png')
    """
    for _ in range(_MAX_DEPTH):
        if not isinstance(raw, Mapping):
            return raw
        # Anthropic's source has the name of an encoding beside the data, {"type": "base64", "data": ...}.
        raw = next((raw[key] for key in _KEYS if raw.get(key) is not None and raw[key] != ""), None)
    return None


def content(raw: Any) -> Any:
    """The bytes of an image, or the path or URL that names it, or a PIL image as it is. BadImage if nothing is given.

    Bytes may be given as base64, in a data: URI or alone; a path as a file: URI.
    """
    raw = bare(raw)
    if raw is None or (isinstance(raw, bytes | str) and not raw):
        raise BadImage("none given")
    if not isinstance(raw, str):
        return raw
    scheme = raw[:5].lower()
    if scheme == "data:":
        head, comma, body = raw.partition(",")
        decoded = _decoded(body) if head.lower().endswith(";base64") else unquote_to_bytes(body)
        if not comma or decoded is None:
            raise BadImage("a data: URI that cannot be decoded")
        return decoded
    if scheme == "file:":
        path = unquote_to_bytes(raw[5:]).decode("utf-8", "surrogateescape")
        return path.removeprefix("//localhost/" if path.startswith("//localhost/") else "//") or "."
    # A text that is not a file of an image in base64 is a path, however it looks.
    if _BASE64.fullmatch(text := "".join(raw.split())) and (decoded := _decoded(text)) and decoded.startswith(_MAGIC):
        return decoded
    return raw


def _decoded(text: str) -> bytes | None:
    """The bytes of a text in base64, in either alphabet, with or without white space and padding; None for another text."""
    text = "".join(text.split()).translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
