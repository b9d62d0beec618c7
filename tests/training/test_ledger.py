"""The ledger sees a sample missed, repeated or displaced, and does not see how the work was shared."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.runs import TINY
from vitrail.batches.order import Order
from vitrail.processes.world import World
from vitrail.training import loop
from vitrail.training.ledger import Ledger, recompute
from vitrail.training.verify import verify_run

pytestmark = pytest.mark.fault

KEYS = [f"img/{index}.png" for index in range(37)]
ALONE = World()
BATCH, STEPS = 8, 10


def stream() -> list[str]:
    _, samples = Order(len(KEYS), seed=3).at(np.arange(BATCH * STEPS))
    return [KEYS[index] for index in samples]


def ledger_of(keys: list[str]) -> int:
    ledger = Ledger()
    for first in range(0, len(keys), BATCH):
        ledger.add(first // BATCH, keys[first : first + BATCH])
    return ledger.value(ALONE)


def test_it_equals_what_order_and_seed_say() -> None:
    keys = stream()
    wanted = list(recompute(Order(len(KEYS), 3), KEYS, BATCH, [1, 4, 10]))
    assert wanted == [ledger_of(keys[:8]), ledger_of(keys[:32]), ledger_of(keys)]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_shares_of_ranks_add_up_to_the_whole(size: int) -> None:
    keys, share = stream(), BATCH // size
    parts = [Ledger() for _ in range(size)]
    for step in range(STEPS):
        for rank, ledger in enumerate(parts):
            at = step * BATCH + rank * share
            ledger.add(step, keys[at : at + share])
    assert sum(ledger.value(ALONE) for ledger in parts) % 2**64 == ledger_of(keys)


def test_every_missed_repeated_or_displaced_sample_changes_it() -> None:
    keys, whole = stream(), ledger_of(stream())
    for at in range(len(keys) - BATCH):
        assert ledger_of(keys[:at] + keys[at + 1 :]) != whole
        assert ledger_of(keys[: at + 1] + keys[at:]) != whole
        swapped = list(keys)
        swapped[at], swapped[at + BATCH] = keys[at + BATCH], keys[at]
        assert ledger_of(swapped) != whole or keys[at] == keys[at + BATCH]


def test_a_real_run_verifies_and_a_changed_log_does_not(tmp_path: Path) -> None:
    folder = loop.train(TINY, out=tmp_path / "run", quiet=True).folder
    found = verify_run(folder)
    assert found.wrong_at is None and found.samples == 12 * TINY.batch_size and found.lines == 12
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len({row["ledger"] for row in rows if "ledger" in row}) == 12
    other = loop.train(dataclasses.replace(TINY, seed=1), out=tmp_path / "other", quiet=True).folder
    (folder / "metrics.jsonl").write_bytes((other / "metrics.jsonl").read_bytes())
    assert verify_run(folder).wrong_at == 1
