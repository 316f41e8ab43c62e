# SPDX-License-Identifier: Apache-2.0
"""Decode and check images, resize them to pixel limits, and compute the sizes that the processors use.

A PNG or JPEG that is upright, RGB or grey, and within the limits is stored unchanged. Any other image is rotated upright, put on a white
background, resized, and encoded again: JPEG as JPEG, everything else as PNG. Engines get pixels from open_rgb or file bytes from data_uri.
"""

import base64
import io
import math
import mimetypes
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_RATIO = 200
MIN_SIDE_PIXELS = 4

_ORIENTATION = 0x0112


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


def prepare(data: bytes, limits: Limits) -> tuple[bytes, str, tuple[int, int]]:
    """The bytes to store, their suffix ("png" or "jpg"), and the image's (width, height). BadImage gives the reason."""
    from PIL import Image as Pillow
    from PIL import ImageOps

    with _decoding():
        # This reads only the header, so a decompression bomb does no harm.
        picture = Pillow.open(io.BytesIO(data), formats=FORMATS)
        shorter, longer = sorted(picture.size)
        if shorter < MIN_SIDE_PIXELS:
            raise BadImage(f"a side under {MIN_SIDE_PIXELS} pixels")
        if longer / shorter >= MAX_RATIO:
            raise BadImage(f"aspect ratio of {MAX_RATIO} or more")
        suffix = "jpg" if picture.format in ("JPEG", "MPO") else "png"
        one_frame = picture.format in ("PNG", "JPEG") and getattr(picture, "n_frames", 1) == 1
        opaque = picture.mode in ("RGB", "L") and "transparency" not in picture.info
        rotated = picture.getexif().get(_ORIENTATION, 1) != 1
        size = picture.size
        if one_frame and opaque and not rotated and limits.fit(*size) == size:
            # The bytes are stored unchanged, so decode them only to check them. For a JPEG, an eighth of its size is enough for that.
            picture.draft(picture.mode, (1, 1))
            picture.load()
            return data, suffix, size
        picture.load()
        result = _rgb(ImageOps.exif_transpose(picture) if rotated else picture)
    size = limits.fit(*result.size)
    if size != result.size:
        result = _resized(result, size)
    buffer = io.BytesIO()
    if suffix == "jpg":
        result.save(buffer, format="JPEG", quality=95, subsampling=0)
    else:
        result.save(buffer, format="PNG")
    return buffer.getvalue(), suffix, size


def decoded(source: Path | bytes, formats: tuple[str, ...] | None = None) -> Any:
    """The image in a file or in bytes as a PIL.Image, fully decoded. formats: the only ones allowed. BadImage gives the reason."""
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as picture:
            picture.load()
            return picture
    # On damaged bytes Pillow's decoders raise OSError, SyntaxError, struct.error and others.
    except Exception as error:
        raise BadImage(f"{type(error).__name__}: {error}") from error


def open_rgb(path: Path) -> Any:
    """The image in a file as a PIL.Image in RGB. ValueError names the file if it cannot be decoded."""
    try:
        return decoded(path).convert("RGB")
    except BadImage as error:
        raise ValueError(f"{path}: the image does not open ({error}); restore the file, then run the same command") from error


def data_uri(path: Path) -> str:
    """The bytes of an image file as a data: URI. ValueError names the file if it cannot be read."""
    try:
        content = base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise ValueError(f"{path}: the image cannot be read ({error}); restore the file, then run the same command") from error
    return f"data:{mimetypes.guess_type(path.name)[0] or 'image/png'};base64,{content}"


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


@contextmanager
def _decoding() -> Iterator[None]:
    """Turn every error of a decoder into a BadImage with a reason that can be counted."""
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
    except Exception as error:
        raise BadImage("truncated or corrupt") from error


def _rgb(picture: Any) -> Any:
    """The picture in RGB, with a white background behind transparent pixels. 16-bit grey is scaled to 8 bits."""
    from PIL import Image as Pillow

    if picture.mode.startswith("I;16"):
        picture = picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if picture.mode in ("I", "F"):
        raise BadImage("pixels of unknown range")
    if picture.has_transparency_data:
        return Pillow.alpha_composite(Pillow.new("RGBA", picture.size, "white"), picture.convert("RGBA")).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")
