"""Order of the training samples: an endless shuffled stream that can be entered at any batch."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from segframe import distributed


class BatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) keys, of which each device gets an equal part.

    Position p of the stream is sample permutation(seed, p // n)[p % n] of epoch p // n; batch b starts at position
    b * batch_size. Every batch is full: it may hold the end of an epoch and the start of the next. Iteration starts at
    batch `start`; the length is that of the whole run. The parts of all devices, in their order, are the batch, so the
    stream is the same on any number of them.
    """

    def __init__(self, num_samples: int, batch_size: int, num_batches: int, seed: int) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.seed = seed
        self.start = 0
        share = batch_size // distributed.world()
        self.part = slice(distributed.rank() * share, (distributed.rank() + 1) * share)

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batch: list[tuple[int, int]] = []
        first, last = self.start * self.batch_size, self.num_batches * self.batch_size
        for epoch in range(first // self.num_samples, -(-last // self.num_samples)):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)
            begin = epoch * self.num_samples
            for index in order[max(0, first - begin) : last - begin].tolist():
                batch.append((epoch, index))
                if len(batch) == self.batch_size:
                    yield batch[self.part]
                    batch = []
