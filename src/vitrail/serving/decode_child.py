"""The process that turns a stranger's bytes into pixels, and can do nothing else.

The kernel bounds its memory and processor time. It can open no file and no socket. A frame comes on the standard input:
length, background, bytes of the picture. A frame goes out on the standard output: 0, H, W, C and the pixels, or 1, the
length of a text, 0, 0 and the text. Nothing here imports torch, so that a new process is ready in a fifth of a second.
"""

import os
import struct
import sys

ASKED = struct.Struct("<Q3B")
ANSWERED = struct.Struct("<4I")
READY = b"R"
"""Said once: from now on the process decodes."""


def main() -> None:
    memory, seconds, pixels = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing that prints can disturb a frame
    from vitrail.errors import DecodeError
    from vitrail.images.decode import decode, sniff
    from vitrail.serving.limits import FORMATS

    keep_small_blocks()
    confine(memory)
    write(answers, READY)
    while head := read(ASKED.size):
        length, *background = ASKED.unpack(head)
        content = read(length)
        allow(seconds)
        try:
            if sniff(content[:16]) not in FORMATS:
                raise DecodeError("not a picture of a known format")
            image = decode(content, background=tuple(background), limit=pixels)
            write(answers, ANSWERED.pack(0, *image.shape))
            write(answers, image.tobytes())
        except (DecodeError, MemoryError) as error:
            text = reason(error).encode()
            write(answers, ANSWERED.pack(1, len(text), 0, 0) + text)
        content = image = b""  # freed before the next frame comes


def reason(error: Exception) -> str:
    """A sentence for the client. The words of a decoder in C are left out."""
    if isinstance(error, MemoryError):
        return "the picture needs too much memory"
    text = getattr(error, "reason", "")
    if text.startswith(("the picture is damaged", "not a picture")):
        return text.partition(" (")[0]
    allowed = getattr(error, "allowed", "")
    return f"{text}; allowed: {allowed}" if allowed else text


def keep_small_blocks() -> None:
    """glibc keeps freed blocks of up to 8 MB for the next picture: else each page of a photograph comes zeroed from the
    kernel, 1.3 ms of 2.8 ms for 500×375. Larger blocks go back, so that a large picture leaves nothing behind."""
    import contextlib
    import ctypes

    with contextlib.suppress(AttributeError, OSError, TypeError):  # musl and macOS have no mallopt
        mallopt, m_trim_threshold, m_mmap_threshold = ctypes.CDLL(None).mallopt, -1, -3  # malloc.h
        mallopt(m_mmap_threshold, 8 << 20)
        mallopt(m_trim_threshold, 64 << 20)


def confine(memory: int) -> None:
    """No more memory than this, no core file, no file written, and no new descriptor: no open file, no socket."""
    import resource

    for kind, most in (("AS", memory), ("CORE", 0), ("FSIZE", 0), ("NOFILE", 0)):
        hard = resource.getrlimit(getattr(resource, f"RLIMIT_{kind}"))[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (most, most))


def allow(seconds: float) -> None:
    """So much processor time from now on; the kernel kills the process after it."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def read(size: int) -> bytes:
    """So many bytes of the standard input; fewer where it ended."""
    found = bytearray(size)
    view, at = memoryview(found), 0
    while at < size and (more := os.readv(0, [view[at:]])):
        at += more
    return bytes(found) if at == size else b""


def write(to: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(to, view) :]


if __name__ == "__main__":
    main()
