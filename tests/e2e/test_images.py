# SPDX-License-Identifier: Apache-2.0
"""The golden table of formats against qwen_vl_utils, by which verl reads images."""

from pathlib import Path

import pytest
from image_formats import FILES
from qwen_vl_utils import fetch_image

from critic_r1_verl.images import Limits, open_rgb
from data_prep.image_store import ImageStore

# What qwen_vl_utils leaves open: it drops transparency except for RGBA, cuts grey levels at 255, and does not turn pictures upright.
OTHERWISE = {
    *(name for name in FILES if "transparent" in name or "grey with alpha" in name or "palette with alpha" in name),
    *(name for name in FILES if "EXIF" in name and name[-1] not in "19"),
    *("png, 16 bits, grey", "png, 16 bits, dark", "tiff, 16 bits", "tiff, 32 bits, up to 65535"),
    *("tiff, floats up to 1", "tiff, floats up to 65535"),
}


@pytest.mark.parametrize("name", FILES)
def test_verl_gets_the_pixels_of_the_reading(tmp_path: Path, name: str) -> None:
    (file := tmp_path / "a").write_bytes(FILES[name]())
    ours = open_rgb(file)
    stored = ImageStore(tmp_path, Limits(28 * 28, 280 * 280, 16)).put(file.read_bytes())
    # The size is a multiple of the factor of 2 x 8 pixels, so that nothing is resized.
    of_stored, of_given = (fetch_image({"image": str(path)}, image_patch_size=8) for path in (tmp_path / stored.path, file))
    assert (of_stored.size, of_stored.tobytes()) == (ours.size, ours.tobytes())
    assert ((of_given.size, of_given.tobytes()) != (ours.size, ours.tobytes())) is (name in OTHERWISE)
