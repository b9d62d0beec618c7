"""TIFFs of many channels, written by tifffile: no channel is lost, and an error names what cannot be read."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image

from vitrail.errors import DecodeError
from vitrail.images.decode import check_header, decode, decode_region

tifffile = pytest.importorskip("tifffile")


def pixels(channels: int, dtype: str = "uint8") -> np.ndarray:
    random = np.random.default_rng(channels)
    if dtype.startswith("float"):
        return random.random((37, 29, channels)).astype(dtype)
    return random.integers(0, np.iinfo(dtype).max + 1, (37, 29, channels)).astype(dtype)


def written(array: np.ndarray, planar: str = "contig", **options) -> bytes:
    file = io.BytesIO()
    if planar == "separate":
        array = np.ascontiguousarray(np.moveaxis(array, 2, 0))
    tifffile.imwrite(file, array, planarconfig=planar, **{"photometric": "minisblack", **options})
    return file.getvalue()


WAYS = {
    "plain": {},
    "big-endian": {"byteorder": ">"},
    "strips": {"rowsperstrip": 5},
    "deflated": {"compression": "zlib"},
    "predicted": {"compression": "zlib", "predictor": True},
    "tiles": {"tile": (16, 16)},
    "tiles deflated": {"tile": (16, 32), "compression": "zlib"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("channels", [2, 3, 5, 12])
def test_every_channel_of_every_layout_is_read(channels: int, planar: str, way: str) -> None:
    if "predicted" in way:
        pytest.importorskip("imagecodecs")
    array = pixels(channels)
    content = written(array, planar, **WAYS[way])
    assert (decode(content) == array).all()
    assert (decode_region(content, lambda height, width: (3, 5, 20, 30), (8, 8)) == array[5:30, 3:20]).all()
    check_header(content)


@pytest.mark.parametrize("channels", [4, 5])
def test_channels_beside_rgb_are_not_dropped(channels: int) -> None:
    """Pillow reads such files as RGB."""
    array = pixels(channels)
    content = written(array, photometric="rgb", extrasamples=["unspecified"] * (channels - 3))
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode == "RGB"
    assert (decode(content) == array).all()


def test_declared_alpha_is_laid_on_the_background_as_ever() -> None:
    array = pixels(4)
    array[..., 3] = 0
    content = written(array, photometric="rgb", extrasamples=["unassalpha"])
    assert (decode(content, background=(1, 2, 3)) == np.array([1, 2, 3])).all()


def test_16_bits_and_floats_are_scaled() -> None:
    array = pixels(5, "uint16")
    assert (decode(written(array, compression="zlib")) == np.rint(array / 257)).all()
    floats = pixels(5, "float32")
    assert (decode(written(floats)) == np.rint(floats * 255)).all()


def test_a_page_of_doubles_plane_after_plane_is_read_or_refused_by_its_values() -> None:
    """scikit-image ships one; it is not damaged."""
    path = Path(skimage.__file__).parent / "data/multipage_rgb.tif"
    if not path.is_file():
        pytest.skip("this scikit-image has no multipage_rgb.tif")
    page = np.moveaxis(tifffile.imread(path)[0], 0, 2)
    if page.min() >= 0 and page.max() <= 255:
        scale = 255 if page.max() <= 1 else 1
        assert (decode(path.read_bytes()) == np.rint(page * scale)).all()
    else:
        with pytest.raises(DecodeError, match="floating-point values"):
            decode(path.read_bytes())


def test_what_is_not_read_is_said_with_a_way_out() -> None:
    with pytest.raises(DecodeError, match=r"a TIFF of 5 channels with 32 bits, sample format 1.*\.npy"):
        decode(written(pixels(5, "uint32")))
    with pytest.raises(DecodeError, match="4,096×4,096 pixels of 60 channels; allowed"):
        decode(sparse(4096, 60))


def sparse(side: int, channels: int) -> bytes:
    """A small file that declares a large picture."""
    content = written(np.zeros((16, 16, channels), np.uint8), compression="zlib")
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        places = [file.pages[0].tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]
    changed = bytearray(content)
    for place in places:
        changed[place : place + 4] = side.to_bytes(4, "little")
    return bytes(changed)


def test_a_cut_or_damaged_strip_is_a_typed_error() -> None:
    content = written(pixels(5))
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        offset = file.pages[0].dataoffsets[0]
    with pytest.raises(DecodeError):
        decode(content[: offset + 100])
    packed = written(pixels(5), compression="zlib")
    at = packed.index(zlib.compress(b"")[:1], 8)
    for change in range(200):
        damaged = bytearray(packed)
        damaged[at + change] ^= 0x55
        try:
            assert decode(bytes(damaged)).dtype == np.uint8
        except DecodeError:
            continue
