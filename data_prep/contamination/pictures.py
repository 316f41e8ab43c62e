# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of pictures, and the comparison of a record's pictures with those of the benchmarks."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critic_r1_verl.images import BadImage, Limits, file_bytes, prepare, read
from data_prep.contamination.items import Hit, Item

MAX_DISTANCE = 8
MIN_CORRELATION = 0.97


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """One picture. pixels: sha256 of size and pixels. phash: uint64. pattern: 32 x 32 grey levels, float32[1024], mean 0, norm 1 or 0."""

    pixels: bytes
    phash: Any
    pattern: Any


def fingerprint(file: Path, limits: Limits | None = None) -> Fingerprint:
    """The fingerprint of an image file; with limits, of the file as a build would store it. ValueError names a file that does not open."""
    import imagehash
    import numpy as np
    from PIL import Image

    try:
        data = file_bytes(file)
        if limits:
            data, _, _ = prepare(data, limits)
        upright = read(data)
    except (BadImage, OSError) as error:
        raise ValueError(f"{file}: does not open ({error}); correct or remove it") from error
    # phash would compute the same small picture from the large one.
    small = upright.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    bits = imagehash.phash(small).hash
    pattern = np.asarray(small, dtype=np.float32).ravel()
    pattern = pattern - pattern.mean()
    norm = float(np.linalg.norm(pattern))
    return Fingerprint(
        pixels=hashlib.sha256(f"{upright.size}".encode() + upright.tobytes()).digest(),
        phash=np.packbits(bits.ravel()).view(np.uint64)[0],
        # A norm of 32 is a standard deviation of one grey level; below it there is only noise.
        pattern=pattern / norm if norm > 32 else np.zeros_like(pattern),
    )


class Pictures:
    """The B distinct pictures of the benchmarks: hashes uint64[B], patterns float32[B, 1024]."""

    def __init__(self, items: Sequence[Item], limits: Limits, pool: Any) -> None:
        import numpy as np

        owners: dict[Path, int] = {}
        for position, item in enumerate(items):
            for file in item.images:
                owners.setdefault(file, position)
        self._exact: dict[bytes, int] = {}
        hashes, patterns, self._owners = [], [], []
        for owner, picture in zip(owners.values(), pool.map(lambda file: fingerprint(file, limits), owners), strict=True):
            if picture.pixels not in self._exact:
                self._exact[picture.pixels] = owner
                self._owners.append(owner)
                hashes.append(picture.phash)
                patterns.append(picture.pattern)
        self._hashes = np.array(hashes, dtype=np.uint64)
        self._patterns = np.array(patterns, dtype=np.float32).reshape(-1, 1024)

    def find(self, pictures: Sequence[Fingerprint]) -> list[Hit | None]:
        """For each picture the item that has the same pixels, else the item with the best correlation, else None."""
        import numpy as np

        if not pictures:
            return []
        distances = np.bitwise_count(np.array([picture.phash for picture in pictures])[:, None] ^ self._hashes[None, :])
        hits: list[Hit | None] = []
        for picture, near in zip(pictures, distances <= MAX_DISTANCE, strict=True):
            if picture.pixels in self._exact:
                hits.append((self._exact[picture.pixels], "image: same pixels", 1.0))
                continue
            candidates = np.flatnonzero(near)
            correlations = self._patterns[candidates] @ picture.pattern
            best = int(correlations.argmax()) if len(candidates) else -1
            if best >= 0 and correlations[best] >= MIN_CORRELATION:
                hits.append((self._owners[candidates[best]], "image: looks the same", min(1.0, float(correlations[best]))))
            else:
                hits.append(None)
        return hits
