"""The model's thread alone has a team of OpenMP: teams with more members than cores sleep between products."""

import asyncio

import torch

from vitrail import machine
from vitrail.serving.batching import Batcher


async def numbers() -> tuple[int, int]:
    """Threads that torch uses in the model's thread, and in a thread that starts later."""
    batcher = Batcher(most=4, seconds=9.0, batch=1)
    batcher.start()
    try:
        found, _, _ = await batcher.submit("key", torch.zeros(1), lambda images: [torch.get_num_threads()])
        return found, await asyncio.to_thread(torch.get_num_threads)
    finally:
        batcher.stop()


def test_the_model_has_all_threads_and_others_one() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with machine.threads_for_model():
            assert torch.get_num_threads() == 1 and machine.model_threads() == 3
            assert asyncio.run(numbers()) == (3, 1)
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == machine.model_threads() == 3
    finally:
        torch.set_num_threads(before)
