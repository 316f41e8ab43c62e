# SPDX-License-Identifier: Apache-2.0
"""The one reading of an image, for every purpose: builds, benchmarks, judging, answering, endpoints, reports and checks.

What is read is what qwen_vl_utils, and so training, gets from a file that a build stored. In detail:

file          PNG, JPEG, WebP, GIF, BMP or TIFF, of at most MAX_FILE_BYTES and MAX_PIXELS; others and damaged files are refused
pictures      the first of several: of an animation, of a TIFF's pages, of a JPEG with a preview or a depth map (MPO)
upright       rotated and mirrored as EXIF, or else XMP, says. qwen_vl_utils does not do so, but vLLM, transformers and browsers do
transparency  on white: an alpha channel as in qwen_vl_utils, and likewise grey with alpha, a palette and a transparent colour, whose
              transparency it drops
more bits     16 bits a channel become their upper 8. Levels of 32 bits and floats are divided by 256 if any is above 255; floats that are
              all at most 1 are multiplied by 255; negative levels and those above 65535 are refused. qwen_vl_utils cuts all at 255
colours       grey, palettes, CMYK and YCbCr become RGB by Pillow's formulas. ICC profiles are ignored, as by qwen_vl_utils

A plain file is a PNG or JPEG of upright, opaque RGB or grey in 8 bits: every reader gets the same pixels from it, so it is stored and sent
unchanged. Any other image is stored in a data folder as RGB: as JPEG if it was a JPEG that has to be resized, else losslessly as PNG.
Engines get pixels from open_rgb, or a file from data_uri. config.json of an evaluation holds READING.
"""

import base64
import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

READING = 2
"""Version of the reading; a change of pixels gives it another number. Version 1, which was not recorded, only converted files to RGB."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_FILE_BYTES = 128 * 2**20
MAX_PIXELS = 89_478_485
"""Above this Pillow suspects a decompression bomb. In memory such an image takes 340 MiB."""
MAX_RATIO = 200
MIN_SIDE_PIXELS = 4

_ORIENTATION = 0x0112
# For each orientation of EXIF, the member of PIL.Image.Transpose that makes the picture upright.
_TURNS = (None, None, "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")


class BadImage(ValueError):
    """An image that cannot be used. A data build skips its row and counts the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits for the pixels (width times height) of a stored image. Sides of a resized image are multiples of factor.

    factor is the processor's patch size times its merge size, in pixels. ValueError unless factor**2 <= min_pixels <= max_pixels.
    """

    min_pixels: int
    max_pixels: int
    factor: int = 28

    def __post_init__(self) -> None:
        if not self.factor**2 <= self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"pixel limits {self.min_pixels} to {self.max_pixels}: --min-pixels is at least {self.factor**2}, at most --max-pixels"
            )

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """The size (width, height) in which an image is stored: unchanged if its sides, rounded to factor, are within the limits."""
        if self.min_pixels <= math.prod(_rounded(width, height, self.factor)) <= self.max_pixels:
            return width, height
        return smart_resize(width, height, self)


def smart_resize(width: int, height: int, limits: Limits) -> tuple[int, int]:
    """The size to which Qwen2-VL's processor and qwen_vl_utils resize an image.

    Both sides are multiples of limits.factor, the area is within the limits, and the aspect ratio is nearly that of the image.
    """
    factor, area = limits.factor, width * height
    resized = _rounded(width, height, factor)
    if math.prod(resized) > limits.max_pixels:
        shrink = math.sqrt(area / limits.max_pixels)
        resized = [max(factor, math.floor(side / shrink / factor) * factor) for side in (width, height)]
    elif math.prod(resized) < limits.min_pixels:
        grow = math.sqrt(limits.min_pixels / area)
        resized = [math.ceil(side * grow / factor) * factor for side in (width, height)]
    return resized[0], resized[1]


def _rounded(width: int, height: int, factor: int) -> list[int]:
    return [max(factor, round(side / factor) * factor) for side in (width, height)]


@dataclass(frozen=True, slots=True)
class Facts:
    """An image file: its orientation, 1 (upright) to 8 as in EXIF; the upright (width, height); plain as defined above."""

    format: str
    orientation: int
    size: tuple[int, int]
    plain: bool


def check(data: bytes) -> Facts:
    """The facts of an image file that can be read. BadImage gives the reason why it cannot."""
    with _decoding():
        picture, facts = _opened(data)
        _verify(picture) if facts.plain else _rgb(picture, facts)
        return facts


def read(data: bytes) -> Any:
    """The image in the bytes of a file as a PIL.Image in RGB, as the module says. BadImage gives the reason why it cannot be read."""
    with _decoding():
        picture, facts = _opened(data)
        result = _rgb(picture, facts)
        # A copy is an image without a file.
        return result.copy() if result is picture else result


def prepare(data: bytes, limits: Limits) -> tuple[bytes, str, tuple[int, int]]:
    """The bytes to store, their suffix ("png" or "jpg"), and the image's (width, height). BadImage gives the reason."""
    with _decoding():
        picture, facts = _opened(data)
        shorter, longer = sorted(facts.size)
        if shorter < MIN_SIDE_PIXELS:
            raise BadImage(f"a side under {MIN_SIDE_PIXELS} pixels")
        if longer / shorter >= MAX_RATIO:
            raise BadImage(f"aspect ratio of {MAX_RATIO} or more")
        size = limits.fit(*facts.size)
        if facts.plain and size == facts.size:
            _verify(picture)
            return data, "jpg" if facts.format == "JPEG" else "png", size
        result = _rgb(picture, facts)
    result = _resized(result, size) if size != facts.size else result
    if size == facts.size or facts.format != "JPEG":
        return _png(result), "png", size
    buffer = io.BytesIO()
    result.save(buffer, format="JPEG", quality=95, subsampling=0)
    return buffer.getvalue(), "jpg", size


def file_bytes(path: Path) -> bytes:
    """The bytes of an image file. OSError if it cannot be read, BadImage if it is larger than MAX_FILE_BYTES."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise BadImage("file is too large")
    return path.read_bytes()


def open_rgb(path: Path) -> Any:
    """The image in a file as a PIL.Image in RGB. ValueError names the file if it cannot be read."""
    with _naming(path):
        return read(file_bytes(path))


def data_uri(path: Path) -> str:
    """An image file as a data: URI, unchanged if it is plain, else as a PNG of what is read. ValueError names a file that does not open."""
    with _naming(path):
        return _data_uri(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _data_uri(path: Path, _changed_ns: int) -> str:
    """Consecutive requests, such as both orders of a pair, have the same images, so the last ones are kept."""
    data = file_bytes(path)
    facts = check(data)
    kind, content = (facts.format.lower(), data) if facts.plain else ("png", _png(read(data)))
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (BadImage, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: the image does not open ({reason}); restore the file, then run the same command") from error


def _resized(picture: Any, size: tuple[int, int]) -> Any:
    """An RGB picture resized to (width, height), bicubic and antialiased like in the processors.

    torch needs a fifth of the time that Pillow needs. It computes bytes in integers, so the result is the same on every CPU.
    """
    import torch
    from PIL import Image as Pillow

    # A data build runs one worker per core.
    torch.set_num_threads(1)
    width, height = picture.size
    pixels_NHWC = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(1, height, width, 3)
    resized_NCHW = torch.nn.functional.interpolate(pixels_NHWC.permute(0, 3, 1, 2), size=size[::-1], mode="bicubic", antialias=True)
    return Pillow.merge("RGB", [Pillow.fromarray(channel_HW) for channel_HW in resized_NCHW[0].contiguous().numpy()])


def _png(picture: Any) -> bytes:
    buffer = io.BytesIO()
    # What the file said beside its pixels is left out: another reader could apply it to them again.
    picture.save(buffer, format="PNG", exif=b"", icc_profile=None)
    return buffer.getvalue()


@contextmanager
def _decoding() -> Iterator[None]:
    """Turn every error of a decoder into a BadImage with a reason that can be counted."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    # Pillow warns of odd metadata, which does not matter. Not catch_warnings, because threads would restore each other's filters.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        yield
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadImage("not an image in a known format") from error
    except Pillow.DecompressionBombError as error:
        raise BadImage("too many pixels") from error
    # On damaged bytes Pillow's decoders raise OSError, SyntaxError, struct.error and others.
    except Exception as error:
        raise BadImage("truncated or corrupt") from error


def _opened(data: bytes) -> tuple[Any, Facts]:
    """The first picture in a file, and its facts. A JPEG is not decoded yet."""
    from PIL import Image as Pillow

    picture = Pillow.open(io.BytesIO(data), formats=FORMATS)
    if math.prod(picture.size) > MAX_PIXELS:
        raise BadImage("too many pixels")
    # Pillow calls a JPEG that holds a second picture MPO.
    kind = "JPEG" if picture.format == "MPO" else str(picture.format)
    if kind != "JPEG":
        # The metadata of a PNG may stand behind its pixels. Pillow turns a TIFF upright when it decodes it, and removes the orientation.
        picture.load()
    orientation = _orientation(picture) if picture.info else 1
    one_frame = kind == "JPEG" or (kind == "PNG" and getattr(picture, "n_frames", 1) == 1)
    opaque = picture.mode in ("RGB", "L") and "transparency" not in picture.info
    size = picture.size[::-1] if orientation >= 5 else picture.size
    return picture, Facts(kind, orientation, size, one_frame and opaque and orientation == 1)


def _orientation(picture: Any) -> int:
    """1 to 8 as in EXIF; 1, upright, if there is none or it cannot be read."""
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    # The picture itself may be whole: viewers and vLLM ignore metadata that they cannot read.
    except Exception:
        return 1
    return value if value in range(1, 9) else 1


def _verify(picture: Any) -> None:
    """Decode a plain picture only to find out whether that is possible. For a JPEG, an eighth of its size is enough."""
    picture.draft(picture.mode, (1, 1))
    picture.load()


def _rgb(picture: Any, facts: Facts) -> Any:
    """The picture upright and in RGB, 8 bits a channel, with a white background behind transparent pixels."""
    from PIL import Image as Pillow

    picture.load()
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        result = _eight_bits(picture)
    elif picture.has_transparency_data:
        layer = picture.convert("RGBA")
        result = Pillow.new("RGB", picture.size, "white")
        result.paste(layer, mask=layer.getchannel("A"))
    else:
        result = picture if picture.mode == "RGB" else picture.convert("RGB")
    turn = _TURNS[facts.orientation]
    return result.transpose(Pillow.Transpose[turn]) if turn else result


def _eight_bits(picture: Any) -> Any:
    """A picture of grey levels of 16 or 32 bits or floats in RGB; a level that is marked as transparent becomes white."""
    import numpy as np
    from PIL import Image as Pillow

    levels_HW = np.asarray(picture)
    lowest, highest = levels_HW.min(), levels_HW.max()
    # Written so that it is also true for NaN.
    if not (lowest >= 0 and highest <= 65535):
        raise BadImage("pixels of unknown range")
    if picture.mode.startswith("I;16") or highest > 255:
        grey_HW = levels_HW / 256
    elif picture.mode == "F" and highest <= 1:
        grey_HW = levels_HW * 255 + 0.5
    else:
        grey_HW = levels_HW
    grey_HW = grey_HW.astype(np.uint8)
    if isinstance(transparent := picture.info.get("transparency"), int):
        grey_HW[levels_HW == transparent] = 255
    return Pillow.fromarray(grey_HW).convert("RGB")
