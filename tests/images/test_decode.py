"""Every kind of picture becomes what the table in decode.py says; every broken one a DecodeError that names it."""

import io
import resource
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests.support.photographs import encoded, photograph
from vitrail.errors import DecodeError, ShapeError
from vitrail.images.decode import TOLERANCE, as_channels, check_header, decode, decode_region, sniff

RGB = np.asarray(photograph(0, (60, 40)))
GREY = np.asarray(photograph(0, (60, 40)).convert("L"))
RAMP16 = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_alpha(image: np.ndarray, alpha: int) -> Image.Image:
    return Image.fromarray(np.dstack([image, np.full(image.shape[:2], alpha, np.uint8)]))


def laid(image: np.ndarray, alpha: int, on: int) -> np.ndarray:
    return np.rint((image.astype(float) * alpha + on * (255 - alpha)) / 255)


def png16_rgb(values: np.ndarray) -> bytes:
    """Pillow writes no 16-bit colour PNG; this does (values: H W 3 of uint16)."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def colour_key() -> bytes:
    image = Image.fromarray(RGB.copy())
    image.putpixel((3, 2), (1, 2, 3))
    return encoded(image, "PNG", transparency=(1, 2, 3))


def palette(transparent: bool) -> tuple[bytes, np.ndarray]:
    image = Image.fromarray(RGB).quantize(16)
    expected = np.array(image.convert("RGB"))
    if transparent:
        expected[np.asarray(image) == 5] = 255
    return encoded(image, "PNG", **({"transparency": 5} if transparent else {})), expected


BIT = np.indices((16, 24)).sum(0) % 3 == 0
COLOUR16 = np.random.default_rng(0).integers(0, 65536, (9, 7, 3), dtype=np.uint16)

TABLE: dict[str, tuple[bytes, np.ndarray]] = {
    "png grey": (encoded(Image.fromarray(GREY), "PNG"), GREY),
    "png colour": (encoded(Image.fromarray(RGB), "PNG"), RGB),
    "png 1 bit": (encoded(Image.fromarray(BIT), "PNG"), BIT * 255),
    "png 16-bit grey": (encoded(Image.fromarray(RAMP16), "PNG"), np.arange(256).reshape(16, 16)),
    "png 16-bit colour": (png16_rgb(COLOUR16), COLOUR16 / 257),
    "png palette": palette(False),
    "png palette, transparent": palette(True),
    "png grey and alpha": (encoded(with_alpha(GREY, 100), "PNG"), laid(GREY, 100, 255)),
    "png colour and alpha": (encoded(with_alpha(RGB, 100), "PNG"), laid(RGB, 100, 255)),
    "tiff 16-bit grey": (encoded(Image.fromarray(RAMP16), "TIFF"), np.arange(256).reshape(16, 16)),
    "tiff float 0…1": (encoded(Image.fromarray(GREY.astype(np.float32) / 255), "TIFF"), GREY),
    "tiff float 0…255": (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), GREY),
    "tiff cmyk": (
        encoded(Image.fromarray(RGB).convert("CMYK"), "TIFF"),
        np.asarray(Image.fromarray(RGB).convert("CMYK").convert("RGB")),
    ),
    "tiff lzw": (encoded(Image.fromarray(RGB), "TIFF", compression="tiff_lzw"), RGB),
    "bmp": (encoded(Image.fromarray(RGB), "BMP"), RGB),
    "ppm": (encoded(Image.fromarray(RGB), "PPM"), RGB),
    "pgm 16-bit": (b"P5 16 16 65535\n" + RAMP16.astype(">u2").tobytes(), np.arange(256).reshape(16, 16)),
    "webp lossless": (encoded(Image.fromarray(RGB), "WEBP", lossless=True), RGB),
    "webp alpha": (encoded(with_alpha(RGB, 100), "WEBP", lossless=True, exact=True), laid(RGB, 100, 255)),
    "gif": (
        encoded(Image.fromarray(RGB).quantize(64), "GIF"),
        np.asarray(Image.fromarray(RGB).quantize(64).convert("RGB")),
    ),
    "npy uint8": (npy(np.dstack([RGB, GREY, GREY])), np.dstack([RGB, GREY, GREY])),
    "npy uint16": (npy(RAMP16), np.arange(256).reshape(16, 16)),
    "npy uint16, big-endian": (npy(RAMP16.astype(">u2")), np.arange(256).reshape(16, 16)),
    "npy bool": (npy(BIT), BIT * 255),
}


@pytest.mark.parametrize("kind", TABLE)
def test_the_table_of_conversions(kind: str) -> None:
    content, expected = TABLE[kind]
    found = decode(content, key=kind)
    expected = expected[..., None] if expected.ndim == 2 else expected
    assert found.dtype == np.uint8 and found.shape == expected.shape
    assert np.abs(found.astype(float) - expected).max() <= 1.0


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_of_every_colour_space(mode: str) -> None:
    found = decode(encoded(Image.fromarray(RGB).convert(mode), "JPEG", quality=95, subsampling=0))
    expected = GREY[..., None] if mode == "L" else RGB
    assert found.shape == expected.shape
    assert np.abs(found.astype(float) - expected).mean() < 3


def test_a_16_bit_ramp_keeps_its_256_levels() -> None:
    """Pillow's own convert("RGB") leaves 2 of them."""
    assert len(np.unique(decode(encoded(Image.fromarray(RAMP16), "PNG")))) == 256


def test_a_transparent_colour_is_laid_on_the_background() -> None:
    found = decode(colour_key(), background=(9, 8, 7))
    assert found[2, 3].tolist() == [9, 8, 7] and (found[0, 0] == RGB[0, 0]).all()


def test_grey_with_alpha_stays_grey_on_grey_and_becomes_colour_on_colour() -> None:
    content = encoded(with_alpha(GREY, 0), "PNG")
    assert decode(content, background=(7, 7, 7)).tolist() == np.full((40, 60, 1), 7).tolist()
    assert decode(content, background=(1, 2, 3))[0, 0].tolist() == [1, 2, 3]


def test_a_colour_profile_is_not_applied() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    assert (decode(encoded(Image.fromarray(RGB), "PNG", icc_profile=profile)) == RGB).all()


def turned(orientation: int, kind: str) -> bytes:
    """RGB stored turned, with the EXIF note that says how to turn it back."""
    undo = {1: [], 2: ["FLIP_LEFT_RIGHT"], 3: ["ROTATE_180"], 4: ["FLIP_TOP_BOTTOM"], 5: ["TRANSPOSE"],
            6: ["ROTATE_90"], 7: ["TRANSVERSE"], 8: ["ROTATE_270"]}[orientation]  # fmt: skip
    image = Image.fromarray(RGB)
    for step in undo:
        image = image.transpose(Image.Transpose[step])
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_exif_orientation_comes_upright(orientation: int, kind: str) -> None:
    found = decode(turned(orientation, kind))
    assert found.shape == RGB.shape
    assert np.abs(found.astype(float) - RGB).mean() < (0.1 if kind == "PNG" else 6)
    region = decode_region(turned(orientation, kind), lambda height, width: (8, 16, 56, 40), (4, 4))
    assert np.abs(region.astype(float).mean((0, 1)) - RGB[16:40, 8:56].mean((0, 1))).max() < 6


def test_a_damaged_exif_block_leaves_the_picture_as_it_is() -> None:
    assert decode(encoded(Image.fromarray(RGB), "JPEG", exif=b"Exif\0\0garbage")).shape == RGB.shape


# --- a region, at a reduced scale -------------------------------------------------------------------------------------


def test_a_region_is_that_part_of_the_picture() -> None:
    for kind in ("PNG", "JPEG"):
        content = encoded(Image.fromarray(RGB), kind)
        region = decode_region(content, lambda height, width: (5, 7, width - 3, height), (200, 200))
        assert (region == decode(content)[7:, 5:-3]).all()


@pytest.mark.parametrize(("scale", "size"), [(1, (300, 400)), (2, (150, 200)), (8, (30, 40))])
def test_a_large_jpeg_is_decoded_as_small_as_the_region_allows(scale: int, size: tuple[int, int]) -> None:
    content = encoded(photograph(3, (401, 305)), "JPEG", quality=92)
    whole = decode(content)
    region = decode_region(content, lambda height, width: (0, 0, 400, 304), size)
    assert region.shape == (304 // scale, 400 // scale, 3)
    reference = Image.fromarray(whole[:304, :400]).resize(region.shape[1::-1], Image.Resampling.BOX)
    assert np.abs(region.astype(float) - np.asarray(reference)).mean() < TOLERANCE


# --- what is no picture ------------------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "an empty file"),
    "html": (b"<!DOCTYPE html><html><body>404</body>", "a web page"),
    "html, indented": (b"\n  <HTML>", "a web page"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "XML or SVG"),
    "text": (b"not an image", "not a picture of a known format"),
    "zip": (b"PK\x03\x04" + b"\0" * 60, "not a picture of a known format"),
    "pdf": (b"%PDF-1.7" + b"\0" * 60, "not a picture of a known format"),
    "heic": (b"\0\0\0\x18ftypheic" + b"\0" * 60, "not a picture of a known format"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture of a known format"),
    "jpeg, magic only": (b"\xff\xd8\xff\xe0", "damaged"),
    "png, magic only": (b"\x89PNG\r\n\x1a\n", "damaged"),
    "jpeg, half": (encoded(photograph(0, (60, 40)))[:900], "damaged"),
    "png, half": (encoded(photograph(0, (60, 40)), "PNG")[:3000], "damaged"),
    "webp, half": (encoded(photograph(0, (60, 40)), "WEBP")[:300], "damaged"),
    "bmp, half": (encoded(photograph(0, (60, 40)), "BMP")[:3000], "damaged"),
    "tiff, half": (encoded(photograph(0, (60, 40)), "TIFF")[:3000], "damaged"),
    "tiff, negative": (encoded(Image.fromarray(GREY.astype(np.float32) - 90), "TIFF"), "floating-point values"),
    "tiff, nan": (encoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), "floating-point values"),
    "npy of floats": (npy(np.zeros((4, 4))), "an array of float64"),
    "npy of objects": (npy(np.array([[{}]], dtype=object)), "an array of object"),
    "npy, half": (npy(RGB)[:500], "damaged"),
    "npy, 4 axes": (npy(np.zeros((2, 2, 2, 2), np.uint8)), "shape"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_picture_is_named_and_said(kind: str) -> None:
    content, reason = BROKEN[kind]
    for read in (
        lambda: decode(content, key="a/b.jpg"),
        lambda: decode_region(content, lambda h, w: (0, 0, 1, 1), (1, 1), key="a/b.jpg"),
    ):
        with pytest.raises(DecodeError, match=f"a/b.jpg: .*{reason}"):
            read()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_name_of_a_file_says_nothing(kind: str) -> None:
    assert decode(encoded(photograph(0, (60, 40)), kind), key="picture.txt").shape == (40, 60, 3)
    assert sniff(encoded(photograph(0, (60, 40)), kind)[:16]) is not None


# --- animations and bombs ----------------------------------------------------------------------------------------------


def animation(frames: int, kind: str) -> bytes:
    """The first frame is white, the others darker and darker."""
    pictures = [Image.new("L", (8, 8), 255 - 255 * k // frames) for k in range(frames)]
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], duration=20)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind: str) -> None:
    assert decode(animation(5, kind)).min() == 255


def test_of_two_pictures_in_one_jpeg_the_first_is_taken() -> None:
    content = encoded(photograph(0, (60, 40)), "MPO", save_all=True, append_images=[Image.new("RGB", (60, 40))])
    assert np.abs(decode(content).astype(float) - RGB).mean() < 10


def test_ten_thousand_frames_cost_no_more_than_one() -> None:
    content = animation(10_000, "GIF")
    started = time.process_time()
    decode(content)
    assert time.process_time() - started < 0.05


def declared_png(width: int, height: int, before: bytes = b"") -> bytes:
    """A tiny PNG that declares a size, with a chunk of any kind before its data."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), *([(before[:4], before[4:])] if before else []), (b"IDAT", zlib.compress(bytes(10_000)))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def declared_jpeg(width: int, height: int) -> bytes:
    content = bytearray(encoded(photograph(0, (64, 64))))
    at = content.index(b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(content)


BOMBS: dict[str, Callable[[], bytes]] = {
    "png of 169 megapixels": lambda: declared_png(13_000, 13_000),
    "jpeg of 65,500²": lambda: declared_jpeg(65_500, 65_500),
    "strip of a thousand million pixels": lambda: declared_png(10**9, 1),
    "npy of a terabyte": lambda: npy(np.zeros((1, 1), np.uint8)).replace(b"(1, 1)", b"(9999999, 99999)")[:200],
    "bmp of 2³¹ rows": lambda: (
        b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, 100, 2**31 - 1, 1, 24, 0, 0, 0, 0, 0, 0)
    ),
    "compressed text of 200 megabytes": lambda: declared_png(8, 8, b"zTXta\0\0" + zlib.compress(bytes(200_000_000), 9)),
    "colour profile of 200 megabytes": lambda: declared_png(8, 8, b"iCCPa\0\0" + zlib.compress(bytes(200_000_000), 9)),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_before_anything_is_allocated(kind: str) -> None:
    content = BOMBS[kind]()
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(DecodeError, match="bomb"):
        decode(content, key="bomb")
    assert time.process_time() - started < 0.05
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024


def test_the_limit_is_the_callers() -> None:
    content = encoded(photograph(0, (60, 40)))
    assert decode(content, limit=2400).shape == (40, 60, 3)
    with pytest.raises(DecodeError, match=r"60×40 pixels declared; allowed: 2,399"):
        decode(content, limit=2399)


# --- channels ----------------------------------------------------------------------------------------------------------


def test_grey_and_colour_become_one_another_and_nothing_else_does() -> None:
    grey, colour = GREY[..., None], RGB
    assert (as_channels(grey, 3) == np.dstack([GREY] * 3)).all()
    assert (as_channels(colour, 1)[..., 0] == GREY).all()  # Rec. 601, as Pillow's "L"
    five = np.dstack([RGB, GREY, GREY])
    assert as_channels(five, 5) is five
    with pytest.raises(ShapeError, match="an image of 5 channels where 3 are wanted"):
        as_channels(five, 3)


# --- pictures made to take long or much ----------------------------------------------------------------------------------


def _jpeg(side: int, **options) -> bytes:
    file = io.BytesIO()
    Image.new("L", (side, side), 90).save(file, "JPEG", **options)
    return file.getvalue()


def _repeat_scans(content: bytes, count: int) -> bytes:
    """The last scan again and again: valid, and each passes over all pixels."""
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + content[-2:]


def test_a_jpeg_of_many_scans_is_refused_by_scans_times_pixels() -> None:
    ordinary = _jpeg(64, progressive=True)
    assert decode(ordinary).shape == (64, 64, 1)
    with pytest.raises(DecodeError, match=r"x\.jpg: a JPEG of 1,\d\d\d scans over 4,096 pixels; allowed: 1,000 scans"):
        decode(_repeat_scans(ordinary, 1000), key="x.jpg")
    large = _repeat_scans(_jpeg(6000, progressive=True), 300)
    for read in (decode, check_header):
        with pytest.raises(DecodeError, match=r"scans over 36,000,000 pixels; allowed: 55 scans"):
            read(large, key="x.jpg")


def test_megabytes_of_exif_before_the_first_pixel_are_refused() -> None:
    content = _jpeg(16)
    block = b"\xff\xe1" + (65_535).to_bytes(2, "big") + b"Exif\0\0" + bytes(65_527)
    assert decode(content[:2] + block * 8 + content[2:]).shape == (16, 16, 1)
    with pytest.raises(DecodeError, match=r"bytes before its first pixel, 4,\d+,\d+ of them EXIF"):
        decode(content[:2] + block * 3000 + content[2:])
    comment = b"\xff\xfe" + (65_535).to_bytes(2, "big") + bytes(65_533)
    with pytest.raises(DecodeError, match="bytes before its first pixel, 0 of them EXIF"):
        decode(content[:2] + comment * 1100 + content[2:])


@pytest.mark.parametrize("shape", [(1, 1, 10**13), (4, 4, 0), (10**5, 10**4)])
def test_an_npy_header_is_checked_before_memory_is_asked_for(shape: tuple[int, ...]) -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    for read in (decode, check_header):
        with pytest.raises(DecodeError, match=r"x\.npy: .* (channels|pixels) ?.*; allowed"):
            read(file.getvalue(), key="x.npy")


@pytest.mark.parametrize("samples", [3, 5])
def test_a_tile_larger_than_its_image_is_refused(samples: int) -> None:
    tifffile = pytest.importorskip("tifffile")
    file = io.BytesIO()
    image = np.zeros((16, 16, samples), np.uint8)
    kind = "rgb" if samples == 3 else "minisblack"
    tifffile.imwrite(
        file, image, tile=(1024, 1024), compression="zlib", photometric=kind, planarconfig="contig", metadata=None
    )
    for read in (decode, check_header):
        with pytest.raises(DecodeError, match=r"x\.tif: a TIFF with tiles of 1,024 pixels; allowed: up to 256"):
            read(file.getvalue(), key="x.tif")
