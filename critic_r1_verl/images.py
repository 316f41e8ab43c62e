# SPDX-License-Identifier: Apache-2.0
"""Images: decoded once with care, brought within pixel limits, and the size rule of the processors.

An upright RGB or grey PNG or JPEG within the limits is kept byte for byte. Any other is turned upright, laid on white, resized and encoded
anew: JPEG as JPEG, the rest as PNG. An engine takes an image as pixels from open_rgb, or as the bytes of its file from data_uri.
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
    """An image that cannot be used; a data build skips its row and counts the reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


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


def decoded(source: Path | bytes, formats: tuple[str, ...] | None = None) -> Any:
    """The image in a file or in bytes as a PIL.Image, decoded to its end; formats are the only ones to try. BadImage says what is wrong."""
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats) as picture:
            picture.load()
            return picture
    # Pillow's decoders raise OSError, SyntaxError, struct.error and more on damaged bytes: they all mean the same.
    except Exception as error:
        raise BadImage(f"{type(error).__name__}: {error}") from error


def open_rgb(path: Path) -> Any:
    """The image of a file in RGB, as a PIL.Image. ValueError names the file if it does not open."""
    try:
        return decoded(path).convert("RGB")
    except BadImage as error:
        raise ValueError(f"{path}: the image does not open ({error}); put it back, then run the same command") from error


def data_uri(path: Path) -> str:
    """The bytes of an image file as a data: URI; the server decodes them. ValueError names the file if it cannot be read."""
    try:
        content = base64.b64encode(path.read_bytes()).decode("ascii")
    except OSError as error:
        raise ValueError(f"{path}: the image cannot be read ({error}); put it back, then run the same command") from error
    return f"data:{mimetypes.guess_type(path.name)[0] or 'image/png'};base64,{content}"


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
