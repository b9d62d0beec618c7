"""JPEGs that would take too long: many scans over many pixels, or megabytes of EXIF before the first pixel.

Pillow joins EXIF segments in quadratic time, and libjpeg passes over all pixels for each scan of a progressive file. A
camera's file has at most some 14 scans and 64 KiB of EXIF; within these limits a picture takes at most 2 s.
"""

from vitrail.errors import DecodeError

SCANS = 1000
SCANNED = 2_000_000_000
"""Scans × pixels: 0.7 ns each, so 1.4 s beside the 0.7 s of an ordinary picture of the largest size."""
EXIF_BYTES = 4 << 20
SEGMENT_BYTES = 64 << 20
"""Bytes of all segments before the first scan."""

_SCAN, _END, _EXIF = 0xDA, 0xD9, 0xE1
_ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a length


def check_scans(content: bytes, pixels: int) -> None:
    """Raises DecodeError for more scans over `pixels` pixels than 2 s allow; of a cut file for those that are there."""
    scans = content.count(b"\xff\xda")  # in a scan's own bytes 0xFF is followed by 0
    if scans > SCANS or scans * pixels > SCANNED:
        allowed = min(SCANS, SCANNED // max(1, pixels))
        raise DecodeError(f"a JPEG of {scans:,} scans over {pixels:,} pixels", allowed=f"{allowed:,} scans")


def check_segments(content: bytes) -> None:
    """Raises DecodeError for more bytes of EXIF, or of all segments, than a picture needs."""
    exif, start = 0, 2
    while start + 4 <= len(content) and content[start] == 0xFF:
        marker = content[start + 1]
        if marker in (_SCAN, _END):
            break
        if marker in _ALONE or marker == 0xFF:
            start += 1 if marker == 0xFF else 2
            continue
        size = int.from_bytes(content[start + 2 : start + 4], "big")
        exif += size if marker == _EXIF and content[start + 4 : start + 8] == b"Exif" else 0
        start += 2 + size
        if exif > EXIF_BYTES or start > SEGMENT_BYTES:
            raise DecodeError(
                f"a JPEG of {start:,} bytes before its first pixel, {exif:,} of them EXIF",
                allowed=f"{SEGMENT_BYTES:,} bytes, {EXIF_BYTES:,} of them EXIF",
            )
