"""Numbers of the ViT paper's appendix (arXiv 2010.11929) that stand behind a study's own."""

from vitrail.reports.page import TableSection
from vitrail.reports.tables import Column, Table


def _section(title: str, note: str, columns: tuple[str, ...], *rows: tuple[object, ...]) -> TableSection:
    return TableSection(title, Table(tuple(map(Column, columns)), rows, title), note)


TABLE_8 = _section(
    "Published: Table 8",
    "ViT-B/16 on JFT, 5-shot linear accuracy on ImageNet, as a share. Positions at the stem, or at every layer.",
    ("positions", "at the stem", "at every layer", "at every layer, shared"),
    ("none", 0.61382, None, None),
    ("1-D, learned", 0.64206, 0.63964, 0.64292),
    ("2-D, learned", 0.64001, 0.64046, 0.64022),
    ("relative", 0.64032, None, None),
)
TABLE_7 = _section(
    "Published: Table 7",
    "ResNets pre-trained on JFT with Adam and with SGD, then fine-tuned; accuracy in %.",
    ("model", "set", "Adam", "SGD"),
    ("R50x1", "ImageNet", 77.54, 78.24),
    ("R50x1", "average of six sets", 89.33, 88.79),
    ("R152x2", "ImageNet", 84.97, 84.37),
    ("R152x2", "average of six sets", 94.01, 93.72),
)
FIGURE_9 = _section(
    "Published: Figure 9",
    "ViT on JFT. The two heads need other learning rates; at the right one they are alike.",
    ("head", "best learning rate"),
    ("class token", 8e-4),
    ("mean of the patches", 3e-4),
)
FIGURE_8 = _section(
    "Published: Figure 8",
    "One dimension of a ViT is scaled while the others stay; 5-shot accuracy against compute. The figure has no numbers.",
    ("dimension", "effect"),
    ("depth", "most of all, up to 64 blocks; little more after 16"),
    ("width", "least of all"),
    ("patch", "smaller patches help, and add no parameters"),
)
TABLE_2 = _section(
    "Published: Tables 2 and 5",
    "Fine-tuned accuracy in %, the mean of three runs where Table 2 has it.",
    ("model, pre-trained on", "ImageNet", "CIFAR-10", "CIFAR-100", "Pets", "Flowers"),
    ("ViT-H/14, JFT", 88.55, 99.50, 94.55, 97.56, 99.68),
    ("ViT-L/16, JFT", 87.76, None, None, None, None),
    ("ViT-L/16, ImageNet-21k", 85.30, None, None, None, None),
    ("BiT-L R152x4, JFT", 87.54, None, None, None, None),
    ("ViT-B/16, ImageNet-21k", 83.97, None, None, None, None),
    ("ViT-B/16, ImageNet", 77.91, None, None, None, None),
)
