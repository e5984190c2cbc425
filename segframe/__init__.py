"""segframe: training of semantic segmentation models, composed from parts by Hydra."""

import os

# OpenMP threads that spin while they wait slow a busy machine (loader workers, a second training) down by an order of
# magnitude; sleeping ones cost nothing measurable on an idle one. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"

IGNORE_INDEX = 255
"""The mask value that every loss and every figure leaves out; each dataset maps its void to it."""
