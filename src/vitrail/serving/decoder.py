"""Pictures from strangers are decoded in child processes; what kills a child does not touch the server."""

import contextlib
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from vitrail.errors import ConfigError, DecodeError, ShapeError
from vitrail.images.decode import sniff
from vitrail.images.preprocess import Preprocess
from vitrail.serving.decode_child import ANSWERED, ASKED, READY
from vitrail.serving.limits import FORMATS, Limits
from vitrail.serving.problem import Problem, busy

PIPE = 1 << 20
STARTING = 20.0
"""Seconds that a process may take to start."""
_SET_PIPE_SIZE = 1031  # Linux's F_SETPIPE_SZ: a picture passes in fewer steps


class _Died(Exception):
    """The child ended, or answered nothing in time."""

    def __init__(self, slow: bool = False) -> None:
        self.slow = slow


class Child:
    """One decoding process. It is started again when it has died; one thread at a time asks it."""

    def __init__(self, limits: Limits) -> None:
        self.limits, self.restarts = limits, -1
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """A new process, in the place of one that has died."""
        limits = self.limits
        words = [limits.decode_memory, limits.decode_seconds, limits.pixels]
        quiet = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # a thread of BLAS would cost 32 MB of the limit
        self._process = process = subprocess.Popen(
            # -P: no module of the folder the server was started in
            [sys.executable, "-P", "-m", "vitrail.serving.decode_child", *map(str, words)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0,
            env={**os.environ, **quiet}, start_new_session=True,
        )  # fmt: skip
        self.restarts += 1
        self._ready = False
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            with contextlib.suppress(ImportError, OSError):
                import fcntl

                fcntl.fcntl(pipe.fileno(), _SET_PIPE_SIZE, PIPE)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Kills the process and closes its pipes."""
        if (process := self._process) is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None

    def revive(self) -> None:
        """Starts the process again where it has died. It may die again at once: the next look will tell."""
        if not self.alive:
            self.stop()
            self.start()
            with contextlib.suppress(_Died):
                self.wait_ready()

    def pixels(self, content: bytes, background: tuple[int, int, int]) -> UInt8[np.ndarray, "H W C"]:
        """The upright picture. Raises Problem 422 for one that cannot be decoded within the limits.

        A child that dies is replaced and asked once more: somebody else may have killed it. A picture that kills two
        children, or spends its processor time, is refused.
        """
        for last in (False, True):
            if not self.alive:
                self.stop()
                self.start()
            try:
                return self._ask(content, background)
            except (_Died, BrokenPipeError) as died:
                code = self._end()
                if getattr(died, "slow", False) and last:
                    raise busy() from None
                if last or code == -getattr(signal, "SIGXCPU", 24):
                    raise Problem(422, "not-decoded", "the picture cannot be decoded within the limits") from None
        raise AssertionError

    def _end(self) -> int:
        """Kills a child that does not answer, and gives its exit code."""
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(0.1)
        self._process.kill()
        return self._process.wait()

    def wait_ready(self) -> None:
        """Returns when the process decodes. Raises _Died where it does not come to that."""
        if not self._ready:
            self._ready = self._read(len(READY), time.monotonic() + STARTING).tobytes() == READY

    def _ask(self, content: bytes, background: tuple[int, int, int]) -> UInt8[np.ndarray, "H W C"]:
        self.wait_ready()
        until = time.monotonic() + self.limits.decode_seconds
        self._write(ASKED.pack(len(content), *background), until)
        self._write(content, until)
        failed, height, width, channels = ANSWERED.unpack(self._read(ANSWERED.size, until).tobytes())
        if failed:
            text = self._read(height, until).tobytes().decode()
            code = "too-many-pixels" if "pixels declared; allowed" in text else "not-an-image"
            raise Problem(422, code, f"the image cannot be read: {text}")
        return self._read(height * width * channels, until).reshape(height, width, channels)

    def _write(self, content: bytes, until: float) -> None:
        assert self._process is not None and self._process.stdin is not None
        pipe, view = self._process.stdin.fileno(), memoryview(content)
        while view:
            _wait(pipe, select.POLLOUT, until)
            view = view[os.write(pipe, view[:PIPE]) :]

    def _read(self, size: int, until: float) -> UInt8[np.ndarray, "n"]:
        assert self._process is not None and self._process.stdout is not None
        found = bytearray(size)
        pipe, view, at = self._process.stdout.fileno(), memoryview(found), 0
        while at < size:
            _wait(pipe, select.POLLIN, until)
            more = os.readv(pipe, [view[at : at + PIPE]])
            if not more:
                raise _Died
            at += more
        return np.frombuffer(found, np.uint8)


def _wait(pipe: int, event: int, until: float) -> None:
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(max(0.0, 1000 * (until - time.monotonic()))):
        raise _Died(slow=True)


class Decoders:
    """Some children, borrowed by threads."""

    def __init__(self, limits: Limits, count: int) -> None:
        self.limits = limits
        self.children = [Child(limits) for _ in range(count)]
        self._free: queue.SimpleQueue[Child] = queue.SimpleQueue()
        self._mend = threading.Lock()
        try:
            for child in self.children:
                child.wait_ready()
                self._free.put(child)
        except _Died:
            self.stop()
            raise ConfigError(
                "the process that decodes images does not start",
                next_step=f"see why: {sys.executable} -P -c 'import vitrail.images.decode'",
            ) from None

    @contextlib.contextmanager
    def borrow(self) -> Generator[Child]:
        child = self._free.get()
        try:
            yield child
        finally:
            self._free.put(child)

    def prepare(self, content: bytes, preprocess: Preprocess) -> UInt8[Tensor, "c h w"]:
        """The picture as the model reads it, the same pixels as `vitrail.predict` takes. Raises Problem."""
        if sniff(content[:16]) not in FORMATS:
            raise Problem(415, "unknown-format", f"the image is none of {', '.join(FORMATS)}")
        with self.borrow() as child:
            image = child.pixels(content, preprocess.background)
        return resize_picture(image, preprocess, self.limits.pixels)

    def mend(self) -> None:
        """Starts children again that died between two requests."""
        with self._mend:
            for _ in self.children:
                with contextlib.suppress(queue.Empty):
                    child = self._free.get_nowait()
                    try:
                        child.revive()
                    finally:
                        self._free.put(child)

    @property
    def alive(self) -> bool:
        return all(child.alive for child in self.children)

    @property
    def restarts(self) -> int:
        return sum(child.restarts for child in self.children)

    def stop(self) -> None:
        for child in self.children:
            child.stop()


def resize_picture(image: UInt8[np.ndarray, "H W C"], preprocess: Preprocess, limit: int) -> UInt8[Tensor, "c h w"]:
    """To the size and channels of the model. Raises Problem 422 for channels that do not fit, and for more pixels on the way."""
    try:
        return preprocess.resize_image(image, limit)
    except ShapeError as error:
        raise Problem(422, "wrong-channels", error.found) from None
    except DecodeError as error:
        raise Problem(422, "too-many-pixels", f"{error.reason}; allowed: {error.allowed}") from None
