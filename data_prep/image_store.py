# SPDX-License-Identifier: Apache-2.0
"""Stores the raw images of a corpus as the files that training reads, named by their content.

critic_r1_verl/images.py defines how an image is prepared.
"""

import hashlib
import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from critic_r1_verl.files import replacing
from critic_r1_verl.images import MAX_FILE_BYTES, BadImage, Limits, prepare
from critic_r1_verl.records import Image
from data_prep.image_forms import content

REMOTE_SECONDS = 20

_STORED_NAME = re.compile(r"\.?[0-9a-f]{32}\.(png|jpg)(\.\d+\.tmp)?")


@dataclass
class ImageStore:
    """The images/ folder of the data folder `out`. Image paths are relative to `root` and must not leave it.

    sizes: {sha256: (width, height)} of the stored images, in pixels. URLs are downloaded only with allow_remote.
    """

    out: Path
    limits: Limits
    root: Path | None = None
    allow_remote: bool = False
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    _seen: dict[bytes, Image] = field(default_factory=dict)

    def put(self, raw: Any) -> Image:
        """Store an image in any form (image_forms.py): bytes, base64, a path or a URL, in a dict or not. BadImage if it cannot be used."""
        data = self._bytes(raw)
        given = hashlib.sha256(data)
        key = given.digest()
        if key not in self._seen:
            stored, suffix, size = prepare(data, self.limits)
            sha = given.hexdigest() if stored is data else hashlib.sha256(stored).hexdigest()
            image = Image(path=f"images/{sha[:32]}.{suffix}", sha256=sha)
            if not (self.out / image.path).exists():
                with replacing(self.out / image.path) as temporary:
                    temporary.write_bytes(stored)
            self.sizes[sha] = size
            self._seen[key] = image
        return self._seen[key]

    def _bytes(self, raw: Any) -> bytes:
        raw = content(raw)
        if isinstance(raw, bytes):
            return raw
        if isinstance(raw, str):
            return self._fetch(raw) if raw.lower().startswith(("http://", "https://")) else self._read(raw)
        if hasattr(raw, "save"):
            buffer = io.BytesIO()
            raw.save(buffer, format="PNG")
            return buffer.getvalue()
        raise BadImage("neither bytes nor a path")

    def _read(self, path: str) -> bytes:
        if self.root is None:
            raise BadImage("a path, but there is no image folder (see --images)")
        try:
            file = (self.root / path).resolve()
            if not file.is_relative_to(self.root.resolve()):
                raise BadImage("path leaves the image folder")
            if not file.is_file():
                raise BadImage("no such file")
            if file.stat().st_size > MAX_FILE_BYTES:
                raise BadImage("file is too large")
            return file.read_bytes()
        except BadImage:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            # The path holds a NUL, is too long, is a loop of links, or is not permitted.
            raise BadImage("unreadable path") from error

    def _fetch(self, url: str) -> bytes:
        if not self.allow_remote:
            raise BadImage("a URL (see --allow-remote)")
        import http.client
        import urllib.request

        try:
            with urllib.request.urlopen(url, timeout=REMOTE_SECONDS) as response:
                data = response.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise BadImage("URL cannot be fetched") from error
        if len(data) > MAX_FILE_BYTES:
            raise BadImage("file is too large")
        return data


def remove_unused(out: Path, used: set[str]) -> None:
    """Delete the files in out/images that put() wrote, complete or temporary, and whose names are not in used."""
    for file in (out / "images").glob("*"):
        if _STORED_NAME.fullmatch(file.name) and file.name not in used:
            file.unlink()
