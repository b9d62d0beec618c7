"""The objectives of this package. A new one is a file and a line here; `OBJECTIVES` has it from then on."""

from vitrail.objectives import classify, contrastive, distill, masked_patches, probe, reconstruct, regress, simmim
from vitrail.objectives.objective import OBJECTIVES

__all__ = [
    "OBJECTIVES",
    "classify",
    "contrastive",
    "distill",
    "masked_patches",
    "probe",
    "reconstruct",
    "regress",
    "simmim",
]
