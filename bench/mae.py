"""A training step of MAE: without dropping tokens, and transformers' ViTMAE, in the same process, turn about.

    python bench/mae.py [--batch 16] [--steps 4] [--threads 2] [--precision fp32 bf16] [--no-peer]

Encoder 384 × 12, decoder 256 × 4, 224 pixels, patches of 16, 75 % hidden. Aims: at least 2.5 times the same pair without
dropping, at least as fast as ViTMAE (aim 1.3 times). Needs `pip install transformers` for the peer.
"""

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from vitrail import machine
from vitrail.batches.loader import Batch
from vitrail.models import zoo
from vitrail.models.mae import MAE, Masking, patchify
from vitrail.models.vit import ViTConfig
from vitrail.objectives.reconstruct import Reconstruct, Reconstructing

ENCODER = ViTConfig(width=384, depth=12, heads=6, mlp_width=1536, classes=0, positions="sincos-mae")
OBJECTIVE = Reconstruct(decoder_width=256, decoder_depth=4, decoder_heads=8)


def ours(batch: int) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    learner = OBJECTIVE.build(zoo.build(ENCODER), generator)
    images = Batch(torch.randn(batch, 3, 224, 224), torch.zeros(batch, dtype=torch.long), ("",) * batch)
    return learner, lambda: OBJECTIVE(learner, images, generator).value


class Undropped(Reconstructing):
    """The same pair with every token through the encoder; hidden ones are blanked behind it."""

    def forward(self, images: torch.Tensor, masking: Masking) -> tuple[torch.Tensor, torch.Tensor]:
        model: MAE = self.backbone
        grid, prefix = model.encoder.patch_embed.grid(images), model.encoder.config.prefix
        every = torch.arange(grid[0] * grid[1]).expand(len(images), -1)
        latent = model.encode(images, every)
        keep = masking.visible[:, :, None].expand(-1, -1, latent.shape[2])
        visible = torch.cat([latent[:, :prefix], latent[:, prefix:].gather(1, keep)], dim=1)
        tokens = model.decode(visible, masking, grid)[:, prefix:]
        hidden = masking.hidden[:, :, None]
        pixels = patchify(images, model.config.patch)
        answers = model.decoder.read(tokens.gather(1, hidden.expand(-1, -1, tokens.shape[2])))
        return answers, pixels.gather(1, hidden.expand(-1, -1, pixels.shape[2]))


def undropped(batch: int) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    learner = Undropped(OBJECTIVE.build(zoo.build(ENCODER), generator).backbone)
    images = Batch(torch.randn(batch, 3, 224, 224), torch.zeros(batch, dtype=torch.long), ("",) * batch)
    return learner, lambda: OBJECTIVE(learner, images, generator).value


def transformers(batch: int) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        intermediate_size=1536,
        decoder_hidden_size=256,
        decoder_num_hidden_layers=4,
        decoder_num_attention_heads=8,
        decoder_intermediate_size=1024,
        norm_pix_loss=True,
    )
    model, images = ViTMAEForPreTraining(config).train(), torch.randn(batch, 3, 224, 224)
    return model, lambda: model(images).loss


def step(loss: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer, dtype: torch.dtype) -> float:
    start = time.perf_counter()
    with machine.autocast(torch.device("cpu"), dtype):
        value = loss()
    value.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--no-peer", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    makers = {"vitrail": ours, "vitrail, no dropping": undropped}
    makers |= {} if asked.no_peer else {"transformers": transformers}
    for precision in asked.precision:
        dtype = machine.PRECISIONS[precision]
        made = {name: make(asked.batch) for name, make in makers.items()}
        optimizers = {name: torch.optim.AdamW(model.parameters(), fused=True) for name, (model, _) in made.items()}
        times: dict[str, list[float]] = {name: [] for name in made}
        for turn in range(asked.steps + 1):  # turn about, so that a busy moment hits all; the first warms up
            for name, (_, loss) in made.items():
                seconds = step(loss, optimizers[name], dtype)
                times[name] += [seconds] if turn else []
        rates = {name: asked.batch / statistics.median(found) for name, found in times.items()}
        for name, rate in rates.items():
            print(f"{precision}  {name:22} {rate:7.2f} img/s   vitrail is {rates['vitrail'] / rate:.2f} times as fast")
    print(f"peak memory of all together {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
