"""NaN and infinity stop a run before the optimiser step, and name the step and the samples."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from vitrail.errors import NonFiniteError
from vitrail.storage import write_whole
from vitrail.training.state import State


class FiniteGuard:
    """Looks at the loss and the gradient norm of every step.

    On a CPU it reads them at once. On a GPU a read would stall every step, so the flag stays on the device. Once set, it stays
    set. The fused optimiser skips its update while it is set (`found_inf`). `read` tells the host at the next line of the log.
    """

    def __init__(self, device: torch.device, folder: Path | None, *, rank: int | None = None) -> None:
        """`rank` is this process's number among several: each knows its own samples, and writes its own file."""
        self._device, self._rank = device, rank
        self._dump = folder / ("nonfinite.json" if rank is None else f"nonfinite-{rank}.json") if folder else None
        self._bad = torch.zeros((), device=device)
        self._unread: list[tuple[int, Sequence[str], Tensor]] = []

    def check(self, state: State, loss: Tensor, norm: Tensor, keys: Sequence[str]) -> None:
        """Called between backward and the optimiser step. Raises NonFiniteError on a CPU, arms the skip on a GPU."""
        bad = ~torch.isfinite(norm)
        # several ranks look at the gradient alone, which is the same on each: all stop at one step
        if self._rank is None:
            bad = bad | ~torch.isfinite(loss)
        self._bad = torch.maximum(self._bad, bad.to(self._bad))
        self._unread.append((state.step, keys, self._bad))
        if self._device.type == "cpu":
            self.read()
        else:
            # the fused kernels read these two attributes, as they do under a gradient scaler
            state.optimizer.grad_scale = None  # pyrefly: ignore[missing-attribute]
            state.optimizer.found_inf = self._bad  # pyrefly: ignore[missing-attribute]

    def read(self) -> None:
        """Raises NonFiniteError for the first bad step since the last reading; the weights have not taken it."""
        for step, keys, bad in self._unread:
            if bad.item():
                self._stop(step, keys)
        self._unread.clear()

    def _stop(self, step: int, keys: Sequence[str]) -> None:
        shown = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
        if self._dump:
            write_whole(self._dump, json.dumps({"step": step, "samples": list(keys)}, indent=1))
            shown += f" (all in {self._dump})"
        raise NonFiniteError(
            f"the loss or its gradient is not finite at step {step}, on the samples {shown}",
            next_step="the weights were not touched; look at those images, or lower `lr`, and resume",
        )
