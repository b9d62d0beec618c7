"""The ledger sees a sample missed, repeated or displaced, and does not see how the work was shared."""

import numpy as np
import pytest

from vitrail.batches.order import Order
from vitrail.train.ledger import Ledger, expected
from vitrail.train.world import World

KEYS = [f"img/{index}.png" for index in range(37)]
ALONE = World()


def stream(count: int) -> list[str]:
    _, samples = Order(len(KEYS), seed=3).at(np.arange(count))
    return [KEYS[index] for index in samples]


def ledger_of(keys: list[str], start: int = 0) -> int:
    ledger = Ledger()
    ledger.add(start, keys)
    return ledger.value(ALONE)


def test_it_equals_what_order_and_seed_say() -> None:
    keys = stream(80)
    wanted = list(expected(Order(len(KEYS), 3), KEYS, 8, [1, 4, 10]))
    assert wanted == [ledger_of(keys[:8]), ledger_of(keys[:32]), ledger_of(keys)]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_shares_of_ranks_add_up_to_the_whole(size: int) -> None:
    keys = stream(80)
    parts = [Ledger() for _ in range(size)]
    for first in range(0, 80, 8):
        share = 8 // size
        for rank, ledger in enumerate(parts):
            at = first + rank * share
            ledger.add(at, keys[at : at + share])
    assert sum(ledger.value(ALONE) for ledger in parts) % 2**64 == ledger_of(keys)


def test_every_missed_repeated_or_swapped_sample_changes_it() -> None:
    keys, whole = stream(80), ledger_of(stream(80))
    for at in range(79):
        assert ledger_of(keys[:at] + keys[at + 1 :]) != whole
        assert ledger_of(keys[: at + 1] + keys[at:]) != whole
        if keys[at] != keys[at + 1]:
            assert ledger_of([*keys[:at], keys[at + 1], keys[at], *keys[at + 2 :]]) != whole
