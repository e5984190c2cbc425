"""Batches on their way to a GPU, on a stream of their own."""

import pytest
import torch

from segframe.data import datamodule
from segframe.data.datamodule import copied_ahead, wait_for_copy


class Stream:
    """A stream that notes what is asked of it."""

    def __init__(self, log, name):
        self.log, self.name, self.events = log, name, 0

    def __enter__(self):
        self.log.append(f"{self.name} begins")

    def __exit__(self, *_):
        self.log.append(f"{self.name} ends")

    def record_event(self):
        self.events += 1
        return f"event {self.events}"

    def wait_event(self, event):
        self.log.append(f"{self.name} waits for {event}")


def test_a_batch_is_waited_for_when_it_is_used(monkeypatch):
    log = []
    copies, computing = Stream(log, "copies"), Stream(log, "computing")
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda tensor, stream: log.append(f"{stream.name} has {tensor.item()}")
    )
    monkeypatch.setattr(datamodule, "move_data_to_device", lambda batch, device: log.append("copy") or dict(batch))
    device = torch.device("cuda")
    batches = copied_ahead(iter([{"image": torch.tensor(k), "name": ["a"]} for k in range(2)]), device, copies)
    first = next(batches)
    assert log == ["copies begins", "copy", "copies ends"] * 2  # the next one's copy has started
    second = next(batches)
    assert next(batches, None) is None
    log.clear()
    assert wait_for_copy(first, device) == {"image": torch.tensor(0), "name": ["a"]}
    assert log == ["computing waits for event 1", "computing has 0"]
    wait_for_copy(second, device)
    assert log[2:] == ["computing waits for event 2", "computing has 1"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_arrive_on_the_gpu():
    images = [torch.randint(0, 256, (4, 3, 256, 256), dtype=torch.uint8).pin_memory() for _ in range(8)]
    device = torch.device("cuda:0")
    batches = copied_ahead(({"image": image} for image in images), device, torch.cuda.Stream(device))
    for image, batch in zip(images, batches, strict=True):
        assert torch.equal(wait_for_copy(batch, device)["image"].cpu(), image)
