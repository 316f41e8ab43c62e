# SPDX-License-Identifier: Apache-2.0
"""Fingerprints of pictures, and the comparison of a record's pictures with those of the benchmarks."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critic_r1_verl.images import BadImage, Limits, decoded, prepare
from data_prep.contamination.items import Hit, Item

MAX_DISTANCE = 8
MIN_CORRELATION = 0.97


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """One picture: sha256 of its size and pixels, phash as uint64, its small grey picture as float32[1024] of mean 0, length 1 or 0."""

    pixels: bytes
    phash: Any
    pattern: Any


def fingerprint(file: Path, limits: Limits | None = None) -> Fingerprint:
    """The fingerprint of an image file, with limits as the builder would store it. ValueError names a file that does not open."""
    import imagehash
    import numpy as np
    from PIL import Image

    try:
        data = file.read_bytes()
        if limits:
            data, _, _ = prepare(data, limits)
        upright = decoded(data).convert("RGB")
    except (BadImage, OSError) as error:
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


class Pictures:
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
