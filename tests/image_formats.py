# SPDX-License-Identifier: Apache-2.0
"""Small image files of every kind that users bring, each with four areas of 48 x 32 pixels; tests/golden/images.json has their colours."""

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image as Pillow
from PIL import ImageCms

HEIGHT, WIDTH = 64, 96
COLOURS = ((250, 0, 0), (0, 130, 0), (0, 0, 250), (40, 40, 40))
GREYS = (0, 80, 160, 255)


def encoded(picture: Any, kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **settings)
    return buffer.getvalue()


def areas(values: Any, dtype: Any = np.uint8) -> Any:
    """An array of four areas of these values: HW for numbers, HWC for tuples."""
    values = np.array(values, dtype)
    return np.repeat(np.repeat(values.reshape(2, 2, *values.shape[1:]), HEIGHT // 2, axis=0), WIDTH // 2, axis=1)


def rgb() -> Any:
    return Pillow.fromarray(areas(COLOURS))


def grey() -> Any:
    return Pillow.fromarray(areas(GREYS))


def with_alpha(alpha: tuple[int, ...] = (255, 128, 0, 255)) -> Any:
    picture = rgb()
    picture.putalpha(Pillow.fromarray(areas(alpha)))
    return picture


def grey_with_alpha() -> Any:
    picture = Pillow.fromarray(np.full((HEIGHT, WIDTH), 0, np.uint8)).convert("LA")
    picture.putalpha(Pillow.fromarray(areas((255, 0, 255, 0))))
    return picture


def palette() -> Any:
    return rgb().quantize(4)


def turned(kind: str, orientation: int, **settings: Any) -> bytes:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    return encoded(rgb(), kind, exif=exif, **settings)


def icc(kind: str) -> bytes:
    """A file with a profile in which the numbers mean other colours than in sRGB."""
    return encoded(rgb(), kind, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes())


def animated(kind: str, **settings: Any) -> bytes:
    return encoded(rgb(), kind, save_all=True, append_images=[Pillow.new("RGB", (WIDTH, HEIGHT), "white")], **settings)


def cmyk(kind: str) -> bytes:
    return encoded(Pillow.fromarray(areas(((0, 255, 255, 5), (255, 0, 255, 125), (255, 255, 0, 5), (0, 0, 0, 215))), mode="CMYK"), kind)


def _png(size: tuple[int, int], bits: int, colour_type: int, lines: bytes, transparent: bytes = b"") -> bytes:
    """A PNG of these bytes, written by hand because Pillow cannot write all kinds, and would fill the picture."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", *size, bits, colour_type, 0, 0, 0)
    marked = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + marked + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def png_of_16_bits(colour_type: int, values: Any, transparent: bytes = b"") -> bytes:
    """A PNG with 16 bits for each channel."""
    return _png((WIDTH, HEIGHT), 16, colour_type, b"".join(b"\0" + line.tobytes() for line in areas(values, ">u2")), transparent)


def bomb(width: int, height: int) -> bytes:
    """A PNG of less than 100 bytes that says it has this size."""
    return _png((width, height), 8, 2, bytes(100))


def levels(values: Any, dtype: Any) -> bytes:
    return encoded(Pillow.fromarray(areas(values, dtype)), "TIFF")


SHORTS = (0, 0x50FF, 0xA000, 0xFFFF)

FILES: dict[str, Callable[[], bytes]] = {
    "png": lambda: encoded(rgb(), "PNG"),
    "png, grey": lambda: encoded(grey(), "PNG"),
    "png, 1 bit": lambda: encoded(Pillow.fromarray(areas((0, 255, 255, 0))).convert("1"), "PNG"),
    "png, alpha": lambda: encoded(with_alpha(), "PNG"),
    "png, alpha, opaque": lambda: encoded(with_alpha((255,) * 4), "PNG"),
    "png, grey with alpha": lambda: encoded(grey_with_alpha(), "PNG"),
    "png, transparent colour": lambda: encoded(rgb(), "PNG", transparency=COLOURS[2]),
    "png, transparent grey": lambda: encoded(grey(), "PNG", transparency=80),
    "png, palette": lambda: encoded(palette(), "PNG"),
    "png, palette with a transparent colour": lambda: encoded(palette(), "PNG", transparency=palette().getpixel((1, 1))),
    "png, palette with alpha": lambda: encoded(palette(), "PNG", transparency=bytes(4)),
    "png, 16 bits, grey": lambda: png_of_16_bits(0, SHORTS),
    "png, 16 bits, transparent grey": lambda: png_of_16_bits(0, SHORTS, b"\x50\xff"),
    "png, 16 bits, dark": lambda: png_of_16_bits(0, (0, 100, 200, 255)),
    "png, 16 bits": lambda: png_of_16_bits(2, [[257 * value for value in colour] for colour in COLOURS]),
    "png, 16 bits, alpha": lambda: png_of_16_bits(6, [[0, 0, 0, alpha] for alpha in (0xFFFF, 0, 0x8000, 0)]),
    "png, animated": lambda: animated("PNG"),
    "png, ICC profile": lambda: icc("PNG"),
    "png, EXIF 1": lambda: turned("PNG", 1),
    "png, EXIF 6": lambda: turned("PNG", 6),
    "jpeg": lambda: encoded(rgb(), "JPEG", quality=95),
    "jpeg, grey": lambda: encoded(grey(), "JPEG", quality=95),
    "jpeg, progressive": lambda: encoded(rgb(), "JPEG", quality=95, progressive=True),
    "jpeg, CMYK": lambda: cmyk("JPEG"),
    "jpeg, ICC profile": lambda: icc("JPEG"),
    "jpeg, MPO": lambda: animated("MPO", quality=95),
    **{f"jpeg, EXIF {number}": partial(turned, "JPEG", number, quality=95) for number in range(1, 10)},
    "webp": lambda: encoded(rgb(), "WEBP", lossless=True),
    "webp, alpha": lambda: encoded(with_alpha(), "WEBP", lossless=True, exact=True),
    "webp, animated": lambda: animated("WEBP", lossless=True),
    "webp, EXIF 8": lambda: turned("WEBP", 8, lossless=True),
    "gif": lambda: encoded(palette(), "GIF"),
    "gif, transparent colour": lambda: encoded(palette(), "GIF", transparency=palette().getpixel((1, 1))),
    "gif, animated": lambda: animated("GIF"),
    "bmp": lambda: encoded(rgb(), "BMP"),
    "tiff": lambda: encoded(rgb(), "TIFF"),
    "tiff, alpha": lambda: encoded(with_alpha(), "TIFF"),
    "tiff, CMYK": lambda: cmyk("TIFF"),
    "tiff, orientation 6": lambda: encoded(rgb(), "TIFF", tiffinfo={0x0112: 6}),
    "tiff, two pages": lambda: animated("TIFF"),
    "tiff, 16 bits": lambda: levels(SHORTS, np.uint16),
    "tiff, 32 bits": lambda: levels(GREYS, np.int32),
    "tiff, 32 bits, up to 65535": lambda: levels(SHORTS, np.int32),
    "tiff, floats up to 1": lambda: levels((0, 0.25, 0.5, 1), np.float32),
    "tiff, floats up to 255": lambda: levels(GREYS, np.float32),
    "tiff, floats up to 65535": lambda: levels(SHORTS, np.float32),
}
