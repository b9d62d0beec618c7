"""From a request's images to its answer: decoded in a child, queued, computed, or given up when the client goes."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import UInt8
from starlette.requests import Request
from torch import Tensor

from vitrail import machine
from vitrail.errors import DoesNotApply, VitrailError
from vitrail.images.preprocess import Preprocess
from vitrail.models.backbone import Backbone
from vitrail.prediction.forward import as_input
from vitrail.prediction.predict import Answer, decide
from vitrail.serving.batching import Batcher, Work
from vitrail.serving.bodies import Bodies, Gone
from vitrail.serving.decoder import Decoders
from vitrail.serving.limits import Limits
from vitrail.serving.look import Looked, look
from vitrail.serving.metrics import Metrics
from vitrail.serving.problem import Problem, busy
from vitrail.serving.served import Models, Served

T = TypeVar("T")
MEND = 0.2
"""Seconds between two looks at the decoding processes."""


@dataclass
class Times:
    """Milliseconds that the images of a request spent, the slowest of them."""

    decode: float = 0.0
    wait: float = 0.0
    model: float = 0.0

    def as_dict(self) -> dict[str, float]:
        return {name: round(1000 * value, 2) for name, value in vars(self).items()}


class Service:
    """All that requests share."""

    def __init__(self, models: Models, limits: Limits, *, batch: int = 1, watch: float = 0.0) -> None:
        """`batch` images at most are computed together; every `watch` seconds files of models are looked at."""
        self.models, self.limits, self.watch_every = models, limits, watch
        self.metrics, self.bodies = Metrics(), Bodies(limits)
        self.batcher = Batcher(most=limits.queue, seconds=limits.answer, batch=batch)
        count = min(4, machine.cores())
        self.decoders = Decoders(limits, count)
        self.threads = ThreadPoolExecutor(count, "vitrail-decode")
        self.draining = False
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "waiting": ("Images that wait or are computed", lambda: self.batcher.waiting),
            "dropped": ("Images not computed, since their clients had gone", lambda: self.batcher.dropped),
            "ready": ("1 where requests are answered", lambda: self.ready),
            "decoder_restarts": ("Decoding processes started again", lambda: self.decoders.restarts),
            "swapped": ("Models put in the place of others", lambda: self.models.swapped),
            "refused": ("New weights that were refused", lambda: self.models.refused),
        }
        for name, (help_, value) in gauges.items():
            self.metrics.watch(name, help_, value)

    @property
    def ready(self) -> bool:
        """Whether a request would be answered now."""
        return not self.draining and self.batcher.alive and self.decoders.alive

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Inside, requests are answered."""
        self.batcher.start()
        chores = [asyncio.create_task(self._mend())]
        if self.watch_every:
            chores.append(asyncio.create_task(self._watch()))
        try:
            yield
        finally:
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
            self.batcher.stop()
            self.threads.shutdown(cancel_futures=True)
            self.decoders.stop()

    async def _mend(self) -> None:
        while True:
            await asyncio.sleep(MEND)
            if not self.decoders.alive:
                await asyncio.to_thread(self.decoders.mend)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.watch_every)
            await asyncio.to_thread(self.models.reload, changed_only=True)

    # --- one request ---

    async def answer_or_give_up(self, request: Request, work: Awaitable[T]) -> T:
        """The result of `work` within the deadline. Raises Problem 503 after it, Gone when the client goes away."""
        task = asyncio.ensure_future(work)
        gone = asyncio.create_task(disconnected(request))
        try:
            await asyncio.wait({task, gone}, timeout=self.limits.answer, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if gone.done():
                self.metrics.gone.inc()
                raise Gone
            raise busy(self.limits.answer)
        finally:
            for one in (task, gone):
                one.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    async def classify(
        self, served: Served, images: Sequence[bytes], top: int, preprocess: Preprocess
    ) -> tuple[list[Answer], Times]:
        """Labels and probabilities of encoded images."""
        decision = replace(served.decision, top_k=top)

        def work(stack: Sequence[Tensor]) -> Sequence[Answer]:
            return decide(served.engine.logits(torch.stack(list(stack))), served.engine.classes, decision)

        return await self.ask(served, images, self.decoding(preprocess), ("classify", top), work)

    async def embed(self, served: Served, images: Sequence[bytes]) -> tuple[list[list[float]], Times]:
        """The features that the head reads."""
        engine = served.torch
        if engine is None:
            raise Problem(422, "no-features", "this engine gives answers and no features")

        def work(stack: Sequence[Tensor]) -> Sequence[list[float]]:
            def features(model: Backbone) -> list[list[float]]:
                pixels = as_input(model, torch.stack(list(stack)), engine.device, engine.preprocess)
                return model.pool(model.features(pixels)).float().cpu().tolist()

            return engine.run(features)

        return await self.ask(served, images, self.decoding(engine.preprocess), "embed", work)

    async def look(
        self,
        served: Served,
        image: bytes,
        preprocess: Preprocess,
        layers: Sequence[int] | None,
        patches: bool,
        positions: bool,
    ) -> tuple[Looked, UInt8[Tensor, "C H W"], Times]:
        """Labels and attention of one image, and the picture that the model saw."""
        seen: list[Tensor] = []

        def work(stack: Sequence[Tensor]) -> Sequence[Any]:
            seen.append(stack[0])
            try:
                return [look(served.engine, stack[0], layers=layers, patches=patches, positions=positions)]
            except DoesNotApply as reason:
                return [Problem(422, "does-not-apply", reason.found)]

        (found,), times = await self.ask(served, [image], self.decoding(preprocess), object(), work)
        return found, seen[0], times

    async def ask(
        self, served: Served, images: Sequence[T], prepare: Callable[[T], Tensor], what: Hashable, work: Work
    ) -> tuple[list[Any], Times]:
        """The answers of the model's thread to images, each prepared beside the loop. Equal `what` is computed together."""
        loop, began = asyncio.get_running_loop(), time.perf_counter()
        with self.batcher.admit(len(images)):
            ready = await together([loop.run_in_executor(self.threads, prepare, one) for one in images])
            times = Times(decode=time.perf_counter() - began)
            jobs = [self.batcher.submit((id(served), what, image.shape), image, work) for image in ready]
            try:
                rows = await together(jobs)
            except VitrailError as error:
                raise Problem(500, "not-finite", error.found) from None
        times.wait, times.model = max(row[1] for row in rows), max(row[2] for row in rows)
        self.metrics.images.labels(served.name).inc(len(images))
        for stage, seconds in vars(times).items():
            self.metrics.seconds.labels(stage).observe(seconds)
        return [row[0] for row in rows], times

    def decoding(self, preprocess: Preprocess) -> Callable[[bytes], Tensor]:
        """A function that makes encoded images ready for a model."""
        return partial(self.decoders.prepare, preprocess=preprocess)


async def together(work: Sequence[Awaitable[T]]) -> list[T]:
    """All results, in order. The first error cancels the rest."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def disconnected(request: Request) -> None:
    """Returns when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
