"""segframe: training of semantic segmentation models, composed from parts by Hydra."""

import os

# Threads of PyTorch's OpenMP that spin for long while they wait slow a busy machine (loader workers, a second training)
# down by an order of magnitude; spinning briefly costs an idle one nothing measurable. Read when torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"

IGNORE_INDEX = 255
"""The mask value that every loss and every figure leaves out; each dataset maps its void to it."""
