"""segframe: training of semantic segmentation models, composed from parts by Hydra."""

__version__ = "0.1.0"

IGNORE_INDEX = 255
"""The mask value that every loss and every figure leaves out; each dataset maps its void to it."""
