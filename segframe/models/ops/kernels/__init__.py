"""Triton kernels of cross-entropy, argmax and pixel counts at the images' size of coarse logits.

A *strip* is the run of rows of pixels between two rows of cells, an *interval* the run of columns between two columns
of cells. Full logits never reach memory: threads interpolate them from the four cells around their pixels. Programs are
single warps, or four at full size, and share memory for sums alone. Tensors have one element per thread, and what a
thread holds of several pixels or classes is a tuple: for tensors of two dimensions some versions of Triton choose
layouts that spill registers.

Loss and argmax (64 registers): a thread has a column of a strip and holds up to four of its pixels while it walks over
the classes, once. Softmax is the online form (Milakov and Gimelshein, 2018), with one exponential per class and pixel.
Memory: each cell is read for its strip and the one above, the mask once; for the backward pass the loss writes four
bytes per pixel, log2(sum(exp(logits))).

Gradient (at most 128 registers, 16 warps on a multiprocessor): a thread has one interval and walks down a column of
cells, strip by strip. It evaluates each pixel once, for seven classes, and sums its gradient for the four cells around
it: sums for the lower cells are kept for the next strip, those for the right cells pass to the neighbouring thread. So
the gradient of a cell is complete when it is written, once and in the logits' own type; without atomic additions it is
the same in every run. Evaluated twice are the strip above each column of cells and the first thread's interval. Memory:
cells, mask and logarithms are read once per seven classes.

Counts of a confusion matrix are atomic additions of integers, the same in any order.
"""

from segframe.models.ops.kernels.classes import classes, count_pairs
from segframe.models.ops.kernels.cross_entropy import cross_entropy

__all__ = ["classes", "count_pairs", "cross_entropy"]
