# SPDX-License-Identifier: Apache-2.0
"""Hostile and odd images: each is stored as training can read it, or is refused for a stated reason."""

import hashlib
import io
import random
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

from critic_r1_verl import images
from critic_r1_verl.images import BadImage, Limits
from data_prep.image_store import ImageStore

sys.path.insert(0, str(Path(__file__).parent))
from image_formats import bomb

LIMITS = Limits(56 * 56, 280 * 280)


def encoded(mode: str = "RGB", size: tuple[int, int] = (80, 60), kind: str = "PNG", colour: Any = 0, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    Pillow.new(mode, size, colour).save(buffer, format=kind, **settings)
    return buffer.getvalue()


def noisy_jpeg(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Pillow.effect_noise(size, 90).convert("RGB").save(buffer, format="JPEG")
    return buffer.getvalue()


def turned(data: bytes) -> bytes:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Pillow.open(io.BytesIO(data)).save(buffer, format="JPEG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "suffix", "size"),
    [
        (encoded(), "png", (80, 60)),
        (encoded("L"), "png", (80, 60)),
        (noisy_jpeg((80, 60)), "jpg", (80, 60)),
    ],
    ids=["png", "grey", "jpeg"],
)
def test_a_plain_image_within_the_limits_keeps_its_bytes(data: bytes, suffix: str, size: tuple[int, int]) -> None:
    assert images.prepare(data, LIMITS) == (data, suffix, size)


@pytest.mark.parametrize(
    ("data", "suffix", "size", "pixel"),
    [
        (encoded("RGBA", colour=(0, 0, 0, 0)), "png", (80, 60), (255, 255, 255)),
        (encoded("LA", colour=(0, 0)), "png", (80, 60), (255, 255, 255)),
        (encoded("RGB", transparency=(0, 0, 0)), "png", (80, 60), (255, 255, 255)),
        (encoded("P"), "png", (80, 60), (0, 0, 0)),
        (encoded("1", colour=1), "png", (80, 60), (255, 255, 255)),
        (encoded("I;16", colour=0x8000), "png", (80, 60), (128, 128, 128)),
        (encoded("CMYK", kind="JPEG"), "png", (80, 60), (255, 255, 255)),
        (encoded(kind="GIF"), "png", (80, 60), (0, 0, 0)),
        (encoded(kind="WEBP", lossless=True), "png", (80, 60), (0, 0, 0)),
        (encoded(kind="BMP"), "png", (80, 60), (0, 0, 0)),
        (encoded(kind="TIFF"), "png", (80, 60), (0, 0, 0)),
        (turned(encoded(kind="JPEG")), "png", (60, 80), (0, 0, 0)),
        (encoded(size=(1000, 500)), "png", (392, 196), (0, 0, 0)),
        (noisy_jpeg((1000, 500)), "jpg", (392, 196), None),
        (turned(noisy_jpeg((500, 1000))), "jpg", (392, 196), None),
        (encoded(size=(5, 5)), "png", (56, 56), (0, 0, 0)),
    ],
)
def test_any_other_becomes_rgb_upright_and_of_the_right_size(data: bytes, suffix: str, size: tuple[int, int], pixel: Any) -> None:
    stored, found_suffix, found_size = images.prepare(data, LIMITS)
    with Pillow.open(io.BytesIO(stored)) as picture:
        assert (found_suffix, found_size, picture.size) == (suffix, size, size)
        assert picture.mode in ("RGB", "L")
        if pixel:
            assert picture.convert("RGB").getpixel((1, 1)) == pixel
    assert images.prepare(stored, LIMITS)[0] == stored, "what is stored is left alone when it is built again"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "none given"),
        (None, "none given"),
        ({"bytes": None, "path": None}, "none given"),
        (7, "neither bytes nor a path"),
        (b"no image at all", "not an image in a known format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image in a known format"),
        (noisy_jpeg((80, 60))[:700], "truncated or corrupt"),
        (encoded(size=(300, 300))[:-40], "truncated or corrupt"),
        (bomb(60_000, 60_000), "too many pixels"),
        (encoded(size=(1, 1)), "a side under 4 pixels"),
        (encoded(size=(900, 3)), "a side under 4 pixels"),
        (encoded(size=(800, 4)), "aspect ratio of 200 or more"),
        (encoded("F", kind="TIFF", colour=-1), "pixels of unknown range"),
        ("../secret.png", "path leaves the image folder"),
        ("/etc/passwd", "path leaves the image folder"),
        ("link.png", "path leaves the image folder"),
        ("none.png", "no such file"),
        ("", "none given"),
        (".", "no such file"),
        ("a\0b.png", "unreadable path"),
        ("x" * 5000, "unreadable path"),
        ("file:///etc/passwd", "path leaves the image folder"),
        ("https://example.org/a.png", r"a URL \(see --allow-remote\)"),
    ],
)
def test_what_cannot_be_used_has_a_reason(tmp_path: Path, data: Any, reason: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(encoded())
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    store = ImageStore(tmp_path / "out", LIMITS, root)
    with pytest.raises(BadImage, match=f"^{reason}$"):
        store.put(data)
    assert not list(tmp_path.glob("out/**/*.*"))


def test_an_image_is_stored_once_whatever_it_comes_as(tmp_path: Path) -> None:
    data = encoded(colour=(9, 9, 9))
    (tmp_path / "a.png").write_bytes(data)
    store = ImageStore(tmp_path / "out", LIMITS, tmp_path)
    given = [
        data,
        {"bytes": data, "path": "x.png"},
        {"bytes": None, "path": "a.png"},
        "a.png",
        "./a.png",
        Pillow.new("RGB", (80, 60), (9, 9, 9)),
    ]
    [stored] = {store.put(raw) for raw in given}
    assert stored.sha256 == hashlib.sha256(data).hexdigest() and stored.path == f"images/{stored.sha256[:32]}.png"
    assert [file.name for file in (tmp_path / "out/images").iterdir()] == [Path(stored.path).name]
    assert store.sizes == {stored.sha256: (80, 60)}
    with pytest.raises(BadImage, match="no image folder"):
        ImageStore(tmp_path, LIMITS).put("a.png")


@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"subsampling": 0, "restart_marker_rows": 1}], ids=str)
def test_a_jpeg_that_is_kept_is_judged_as_if_decoded_in_full(settings: dict[str, Any]) -> None:
    """Decoded at an eighth of its size, which is quicker: cut short anywhere or with a byte changed, it is refused in the same cases."""

    def refused_in_full(data: bytes) -> bool:
        try:
            Pillow.open(io.BytesIO(data), formats=("JPEG",)).load()
        # Whatever a decoder raises is a refusal.
        except Exception:
            return True
        return False

    def refused(data: bytes) -> bool:
        try:
            return images.prepare(data, LIMITS)[0] is not data
        except BadImage:
            return True

    buffer = io.BytesIO()
    Pillow.effect_noise((250, 190), 90).convert("RGB").save(buffer, format="JPEG", **settings)
    whole = buffer.getvalue()
    rng = random.Random(0)
    broken = [whole[:length] for length in (*rng.sample(range(len(whole)), 60), *range(len(whole) - 20, len(whole)))]
    scan = whole.index(b"\xff\xda") + 14
    for _ in range(60):
        place = rng.randrange(scan, len(whole))
        broken.append(whole[:place] + rng.randbytes(rng.choice((1, 2, 40))) + whole[place + 2 :])
    verdicts = [refused(data) for data in (whole, *broken)]
    assert verdicts == [refused_in_full(data) for data in (whole, *broken)]
    assert not verdicts[0] and sum(verdicts) > 60


def test_urls_are_fetched_only_when_allowed(tmp_path: Path) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/a.png" else 404)
            self.end_headers()
            self.wfile.write(encoded() if self.path == "/a.png" else b"")

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=partial(server.serve_forever, 0.01))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        store = ImageStore(tmp_path, LIMITS, allow_remote=True)
        assert store.put(f"{url}/a.png").sha256 == hashlib.sha256(encoded()).hexdigest()
        with pytest.raises(BadImage, match=r"^URL cannot be fetched$"):
            store.put(f"{url}/b.png")
        server.shutdown()
        thread.join()


def test_limits_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="--min-pixels is at least 784"):
        Limits(700, 800)


@pytest.mark.parametrize("size", [(61, 47), (200, 90), (80, 30)])
def test_resizing_is_that_of_the_processors(size: tuple[int, int]) -> None:
    """Pillow's bicubic is what they call; the difference is one of rounding."""
    picture = Pillow.merge("RGB", [Pillow.effect_noise((80, 60), spread) for spread in (40, 80, 120)])
    ours, theirs = images._resized(picture, size), picture.resize(size, Pillow.Resampling.BICUBIC)
    assert ours.size == size
    assert max(abs(a - b) for a, b in zip(ours.tobytes(), theirs.tobytes(), strict=True)) <= 2


def test_resizing_gives_the_same_bytes_on_every_machine() -> None:
    picture = Pillow.merge("RGB", [Pillow.linear_gradient("L"), Pillow.radial_gradient("L"), Pillow.linear_gradient("L").rotate(90)])
    found = b"".join(images._resized(picture, size).tobytes() for size in ((100, 41), (300, 290)))
    assert hashlib.sha256(found).hexdigest()[:16] == "207ac81e08974dca"
