"""A training step of MAE: beside the same pair without dropping tokens, and beside transformers' ViTMAE.

    python bench/mae.py [--batch 16] [--rounds 3] [--threads 2] [--precision fp32 bf16] [--no-peer] [--json]

Encoder 384 × 12, decoder 256 × 4, 224 pixels, patches of 16, 75 % hidden. Aims: at least 2.5 times the same pair without
dropping, at least as fast as ViTMAE (aim 1.3 times). Needs `pip install transformers` for the peer.
"""

import argparse
import os
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from pairs import measure, report, take_turns
from vitrail import hardware
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


def step_of(name: str, precision: str, batch: int) -> Callable[[], None]:
    model, loss = MAKERS[name](batch)
    optimizer, dtype = torch.optim.AdamW(model.parameters(), fused=True), hardware.PRECISIONS[precision]

    def step() -> None:
        with hardware.autocast(torch.device("cpu"), dtype):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


MAKERS = {"vitrail": ours, "undropped": undropped, "transformers": transformers}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.contender:
        name, precision = asked.contender.split()
        measure(step_of(name, precision, asked.batch), asked.batch, asked.seconds)
        return 0
    peers = [("undropped", 2.5), *[("transformers", 1.0)] * (not asked.no_peer)]
    claims = [(f"vitrail {how}", f"{peer} {how}", least) for how in asked.precision for peer, least in peers]
    names = list(dict.fromkeys(name for ours, peer, _ in claims for name in (ours, peer)))
    options = ["--batch", str(asked.batch), "--seconds", str(asked.seconds), "--threads", str(asked.threads)]
    return report(take_turns(__file__, names, asked.rounds, options), claims, as_json=asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
