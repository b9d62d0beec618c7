"""The objectives of this package. A new one is a file and a line here; `OBJECTIVES` has it from then on."""

# ruff: noqa: F401
from vitrail.objectives import classify, contrastive, distill, masked_patches, probe, reconstruct, regress, simmim
