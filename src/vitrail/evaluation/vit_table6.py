"""Table 6 of the ViT paper: what each model cost to pre-train on JFT-300M and what it reached after fine-tuning."""

from collections.abc import Sequence
from dataclasses import dataclass

JFT_IMAGES = 303e6


@dataclass(frozen=True)
class Published:
    """A row: accuracies in percent after fine-tuning, and the pre-training compute in exaFLOPs."""

    name: str
    epochs: int
    imagenet: float
    real: float
    cifar10: float
    cifar100: float
    pets: float
    flowers102: float
    exaflops: float

    @property
    def gmacs(self) -> float:
        """Of one image forward at 224 pixels, from exaFLOPs = 6 · MACs · images · epochs."""
        return self.exaflops * 1e18 / (6 * JFT_IMAGES * self.epochs) / 1e9

    def accuracy(self, columns: Sequence[str]) -> float:
        """The mean of some columns, as a share."""
        return sum(getattr(self, name) for name in columns) / len(columns) / 100


COLUMNS = ("imagenet", "cifar10", "cifar100", "pets", "flowers102")

# fmt: off
TABLE6 = (
    Published("ViT-B/32", 7, 80.73, 86.27, 98.61, 90.49, 93.40, 99.27, 55),
    Published("ViT-B/16", 7, 84.15, 88.85, 99.00, 91.87, 95.80, 99.56, 224),
    Published("ViT-L/32", 7, 84.37, 88.28, 99.19, 92.52, 95.83, 99.45, 196),
    Published("ViT-L/16", 7, 86.30, 89.43, 99.38, 93.46, 96.81, 99.66, 783),
    Published("ViT-L/16", 14, 87.12, 89.99, 99.38, 94.04, 97.11, 99.56, 1567),
    Published("ViT-H/14", 14, 88.08, 90.36, 99.50, 94.71, 97.11, 99.71, 4262),
    Published("ResNet50x1", 7, 77.54, 84.56, 97.67, 86.07, 91.11, 94.26, 50),
    Published("ResNet50x2", 7, 82.12, 87.94, 98.29, 89.20, 93.43, 97.02, 199),
    Published("ResNet101x1", 7, 80.67, 87.07, 98.48, 89.17, 94.08, 95.95, 96),
    Published("ResNet152x1", 7, 81.88, 87.96, 98.82, 90.22, 94.17, 96.94, 141),
    Published("ResNet152x2", 7, 84.97, 89.69, 99.06, 92.05, 95.37, 98.62, 563),
    Published("ResNet152x2", 14, 85.56, 89.89, 99.24, 91.92, 95.75, 98.75, 1126),
    Published("ResNet200x3", 14, 87.22, 90.15, 99.34, 93.53, 96.32, 99.04, 3306),
    Published("R50x1+ViT-B/32", 7, 84.90, 89.15, 99.01, 92.24, 95.75, 99.46, 106),
    Published("R50x1+ViT-B/16", 7, 85.58, 89.65, 99.14, 92.63, 96.65, 99.40, 274),
    Published("R50x1+ViT-L/32", 7, 85.68, 89.04, 99.24, 92.93, 96.97, 99.43, 246),
    Published("R50x1+ViT-L/16", 7, 86.60, 89.72, 99.18, 93.64, 97.03, 99.40, 859),
    Published("R50x1+ViT-L/16", 14, 87.12, 89.76, 99.31, 93.89, 97.36, 99.11, 1668),
)
# fmt: on


def columns_for(tasks: Sequence[str]) -> tuple[str, ...]:
    """The columns of the table among a suite's tasks; without any, all of them."""
    return tuple(name for name in COLUMNS if name in tasks) or COLUMNS
