# SPDX-License-Identifier: Apache-2.0
"""Images as a corpus gives them -> files that training reads: decoded once with care, within the pixel limits, named by their content.

An upright RGB or grey PNG or JPEG within the limits is kept byte for byte. Any other is turned upright, laid on white, resized and encoded
anew: JPEG as JPEG, the rest as PNG.
"""

import hashlib
import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from critic_r1_verl.records import Image, replacing
from data_prep.corpus import BadImage

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_RATIO = 200
MIN_SIDE_PIXELS = 4
MAX_FILE_BYTES = 128 * 2**20
REMOTE_SECONDS = 20

_ORIENTATION = 0x0112
_STORED_NAME = re.compile(r"\.?[0-9a-f]{32}\.(png|jpg)(\.\d+\.tmp)?")


@dataclass(frozen=True, slots=True)
class Limits:
    """Pixels (width times height) of a stored image. Resized sides are multiples of factor (patch times merge)."""

    min_pixels: int
    max_pixels: int
    factor: int = 28

    def __post_init__(self) -> None:
        if not self.factor**2 <= self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"pixel limits {self.min_pixels} to {self.max_pixels}: --min-pixels is at least {self.factor**2}, at most --max-pixels"
            )

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The size at which an image is stored: its own, unless the size the processor would see is outside the limits."""
        rounded = math.prod(max(self.factor, round(side / self.factor) * self.factor) for side in (width, height))
        if self.min_pixels <= rounded <= self.max_pixels:
            return width, height
        return smart_resize(width, height, self)


def smart_resize(width: int, height: int, limits: Limits) -> tuple[int, int]:
    """The size to which Qwen2-VL's processor and qwen_vl_utils bring an image; symmetrical in its sides.

    Both sides become multiples of limits.factor, the area comes within the limits, the aspect ratio stays nearly the same.
    """
    factor, area = limits.factor, width * height
    rounded = [max(factor, round(side / factor) * factor) for side in (width, height)]
    if math.prod(rounded) > limits.max_pixels:
        shrink = math.sqrt(area / limits.max_pixels)
        rounded = [max(factor, math.floor(side / shrink / factor) * factor) for side in (width, height)]
    elif math.prod(rounded) < limits.min_pixels:
        grow = math.sqrt(limits.min_pixels / area)
        rounded = [math.ceil(side * grow / factor) * factor for side in (width, height)]
    return rounded[0], rounded[1]


@dataclass
class ImageStore:
    """The images/ folder of the data folder `out`. put() takes what convert() passes; paths are relative to `root`, and stay in it.

    sizes holds (width, height) of what was stored, by sha256. URLs are fetched only with allow_remote.
    """

    out: Path
    limits: Limits
    root: Path | None = None
    allow_remote: bool = False
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    _seen: dict[bytes, Image] = field(default_factory=dict)

    def put(self, raw: Any) -> Image:
        """Store an image (bytes, {"bytes", "path"}, a PIL image, a path or URL). BadImage if it cannot be used."""
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
        if isinstance(raw, Mapping):
            raw = raw.get("path") if raw.get("bytes") is None else raw["bytes"]
        if raw is None or (isinstance(raw, bytes | str) and not raw):
            raise BadImage("none given")
        if isinstance(raw, bytes):
            return raw
        if isinstance(raw, str):
            return self._fetch(raw) if raw.startswith(("http://", "https://")) else self._read(raw)
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
            # A path with a NUL, one too long for the file system, a loop of links, no permission.
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


def prepare(data: bytes, limits: Limits) -> tuple[bytes, str, tuple[int, int]]:
    """The bytes to store, their suffix ("png" or "jpg") and the size (width, height) they decode to. BadImage names what is wrong."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    with _decoding():
        # Only the header is read here, so a decompression bomb costs nothing.
        picture = Pillow.open(io.BytesIO(data), formats=FORMATS)
        _check_size(*picture.size)
        suffix = "jpg" if picture.format in ("JPEG", "MPO") else "png"
        whole = picture.format in ("PNG", "JPEG") and getattr(picture, "n_frames", 1) == 1
        plain = picture.mode in ("RGB", "L") and "transparency" not in picture.info
        turned = picture.getexif().get(_ORIENTATION, 1) != 1
        size = picture.size
        if whole and plain and not turned and limits.fit(*size) == size:
            # The bytes stay, so decoding only has to show that all of them decode: a JPEG's do at an eighth of its size too.
            picture.draft(picture.mode, (1, 1))
            picture.load()
            return data, suffix, size
        picture.load()
        result = _rgb(ImageOps.exif_transpose(picture) if turned else picture)
    size = limits.fit(*result.size)
    if size != result.size:
        result = _resized(result, size)
    buffer = io.BytesIO()
    if suffix == "jpg":
        result.save(buffer, format="JPEG", quality=95, subsampling=0)
    else:
        result.save(buffer, format="PNG")
    return buffer.getvalue(), suffix, size


def _resized(picture: Any, size: tuple[int, int]) -> Any:
    """An RGB picture in another size (width, height): bicubic, antialiased, as the processors do it.

    torch takes a fifth of Pillow's time for it, and its arithmetic on bytes is in integers: the same result on every processor.
    """
    import torch
    from PIL import Image as Pillow

    # The workers of a build have a core each.
    torch.set_num_threads(1)
    width, height = picture.size
    pixels_NHWC = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(1, height, width, 3)
    resized_NCHW = torch.nn.functional.interpolate(pixels_NHWC.permute(0, 3, 1, 2), size=size[::-1], mode="bicubic", antialias=True)
    return Pillow.merge("RGB", [Pillow.fromarray(channel_HW) for channel_HW in resized_NCHW[0].contiguous().numpy()])


@contextmanager
def _decoding() -> Iterator[None]:
    """Whatever a decoder raises, as the BadImage that it means."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Pillow.DecompressionBombWarning)
            yield
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadImage("not an image in a known format") from error
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise BadImage("too many pixels") from error
    # Pillow's decoders raise OSError, SyntaxError, struct.error and more on hostile bytes: they all mean the same.
    except Exception as error:
        raise BadImage("truncated or corrupt") from error


def remove_unused(out: Path, used: set[str]) -> None:
    """Delete images of earlier or dropped records from out/images: files named by put(), whole or cut short, and not in used."""
    for file in (out / "images").glob("*"):
        if _STORED_NAME.fullmatch(file.name) and file.name not in used:
            file.unlink()


def _check_size(width: int, height: int) -> None:
    if min(width, height) < MIN_SIDE_PIXELS:
        raise BadImage(f"a side under {MIN_SIDE_PIXELS} pixels")
    if max(width, height) / min(width, height) >= MAX_RATIO:
        raise BadImage(f"aspect ratio of {MAX_RATIO} or more")


def _rgb(picture: Any) -> Any:
    """The picture in RGB: what is transparent on white, 16 bits a channel scaled to 8."""
    from PIL import Image as Pillow

    if picture.mode.startswith("I;16"):
        picture = picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if picture.mode in ("I", "F"):
        raise BadImage("pixels of unknown range")
    if picture.has_transparency_data:
        seen_through = picture.convert("RGBA")
        return Pillow.alpha_composite(Pillow.new("RGBA", picture.size, "white"), seen_through).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")
