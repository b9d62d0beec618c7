"""The most that one client, and all clients together, can cost."""

from dataclasses import dataclass

FORMATS = ("JPEG", "PNG", "WebP")
"""The formats that are decoded for a client."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a server. Seconds are absolute: a byte now and then does not extend them."""

    headers: float = 5.0
    """Seconds for the headers of a request."""
    body: float = 15.0
    """Seconds for its body."""
    answer: float = 5.0
    """Seconds for decoding, waiting and computing."""
    reading: float = 15.0
    """Seconds that a client may take to read the answer."""
    drain: float = 10.0
    """Seconds in which requests are finished after SIGTERM."""
    header_bytes: int = 16 << 10
    body_bytes: int = 10 << 20
    held_bytes: int = 256 << 20
    """Bytes of all bodies that are held at once."""
    pixels: int = 25_000_000
    """Pixels of an image, by its header."""
    images: int = 16
    """Images of a request."""
    queue: int = 64
    """Images that wait or are computed, of all clients."""
    connections: int = 256
    decode_seconds: float = 2.0
    """Processor seconds, and seconds by the clock, to decode one image."""
    decode_memory: int = 2 << 30
    """Bytes of address space of a decoding process."""
    enlarge: float = 4.0
    """The most pixels a client may ask a model to look at, as a multiple of the model's own."""
