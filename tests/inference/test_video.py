"""Overlay videos: frames in order, sizes, rates, rotation, damaged files, full disks, memory."""

import resource
import struct
import weakref

import cv2
import numpy as np
import pytest
import torch
from conftest import TINY
from small_networks import NAMES, save_checkpoint, save_image

from segframe.errors import ImageError, UserError
from segframe.inference.build import build_inference
from segframe.inference.predict import predict
from segframe.inference.video import DEFAULT_RATE, draw_video, known_rate, open_video, silence_opencv, write_video
from segframe.visualization.overlays import overlay

BITS = 9

silence_opencv()


def numbered(number, height=48, width=80):
    """A frame with its number in stripes, black for 0 and white for 1, over a dark lower half."""
    frame = np.full((height, width, 3), 64, np.uint8)
    for bit in range(BITS):
        left, right = bit * width // BITS, (bit + 1) * width // BITS
        frame[: height // 2, left:right] = 255 * (number >> bit & 1)
    return frame


def number_of(frame):
    height, width = frame.shape[0] // 2, frame.shape[1]
    stripes = [frame[4 : height - 4, bit * width // BITS + 3 : (bit + 1) * width // BITS - 3] for bit in range(BITS)]
    return sum((stripe.mean() > 80) << bit for bit, stripe in enumerate(stripes))


def write(path, frames, codec="mp4v", rate=25.0):
    writer = None
    for frame in frames:
        height, width = frame.shape[:2]
        writer = writer or cv2.VideoWriter(
            str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), rate, (width, height)
        )
        writer.write(frame[..., ::-1].copy())
    writer.release()


def read(path):
    with open_video(path) as video:
        return list(video.frames()), video.rate, video.length


def copy(path, target):
    return draw_video(path, target, lambda frame: frame, lambda length: None)


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "mp4v"), ("avi", "MJPG"), ("mkv", "FFV1"), ("webm", "VP80")])
def test_frames_keep_their_order_and_rate(tmp_path, suffix, codec):
    for rate in (23.976, 25, 12.5) if codec == "mp4v" else (29.97,):
        write(tmp_path / f"a.{suffix}", map(numbered, range(40)), codec, rate)
        lengths = []
        count = draw_video(tmp_path / f"a.{suffix}", tmp_path / "o/b.mp4", lambda frame: frame, lengths.append)
        frames, found, length = read(tmp_path / "o/b.mp4")
        assert [number_of(frame) for frame in frames] == list(range(40))
        assert count == length == len(lengths) == 40
        assert found == pytest.approx(rate, abs=1e-3)
    assert [file.name for file in (tmp_path / "o").iterdir()] == ["b.mp4"]


def test_odd_sizes_grow_by_a_copy_of_the_last_row_and_column(tmp_path):
    """No codec of OpenCV's writer takes them; it would cut them off."""
    frame = np.zeros((45, 61, 3), np.uint8)
    frame[-1], frame[:, -1] = 255, 255
    with write_video(tmp_path / "a.mp4", 25) as append:
        append(frame)
    (found,), _, _ = read(tmp_path / "a.mp4")
    assert found.shape == (46, 62, 3)
    assert found[:, -2:].mean() > 200
    assert found[-2:].mean() > 200
    assert found[:-4, :-4].mean() < 30


def test_rotated_videos_are_read_upright(tmp_path):
    """A phone held upright writes its sensor's rows, and a matrix in the file that turns them by 90 degrees."""
    frame = np.zeros((48, 80, 3), np.uint8)
    frame[:, :40] = 255
    write(tmp_path / "a.mp4", [frame] * 3)
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    one = 1 << 16
    assert struct.unpack(">9i", content[start : start + 36])[:2] == (one, 0)
    content[start : start + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 48 * one, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content)
    copy(tmp_path / "turned.mp4", tmp_path / "b.mp4")
    frames, _, _ = read(tmp_path / "b.mp4")
    assert [frame.shape for frame in frames] == [(80, 48, 3)] * 3
    assert frames[0][:36].mean() > 240
    assert frames[0][44:].mean() < 15


def test_videos_that_cannot_be_read(tmp_path, capfd):
    for name, content in {"a.mp4": b"no video", "b.mp4": b"", "c.avi": b"RIFF"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=rf"cannot read .*{name}, is the file damaged\?"):
            copy(tmp_path / name, tmp_path / "o.mp4")
    write(tmp_path / "d.avi", map(numbered, range(200)), "MJPG")
    content = (tmp_path / "d.avi").read_bytes()
    (tmp_path / "d.avi").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=r"the last \d+ of 200 frames of .*d\.avi cannot be read, is the file damaged"):
        copy(tmp_path / "d.avi", tmp_path / "half.mp4")
    frames, _, _ = read(tmp_path / "half.mp4")
    assert [number_of(frame) for frame in frames] == list(range(len(frames)))
    assert 80 < len(frames) < 120
    assert not (tmp_path / "o.mp4").exists()
    assert capfd.readouterr() == ("", "")  # OpenCV and FFmpeg print nothing


def test_full_disk_leaves_the_old_video(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (30, 96, 128, 3), np.uint8)
    (tmp_path / "a.mp4").write_text("before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def write_all(end):
        with write_video(tmp_path / "a.mp4", 25) as append:
            for frame in frames:
                append(frame)
            end()

    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*a\.mp4: .* is the disk full\?"):
            write_all(lambda: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]
    with pytest.raises(ZeroDivisionError):
        write_all(lambda: 1 / 0)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


def test_only_a_few_frames_are_in_memory(tmp_path):
    write(tmp_path / "a.mp4", map(numbered, range(60)))
    frames, most = [], 0

    def draw(frame):
        nonlocal most
        frames.append(weakref.ref(frame))
        most = max(most, sum(frame() is not None for frame in frames))
        return frame

    assert draw_video(tmp_path / "a.mp4", tmp_path / "b.mp4", draw, lambda length: None) == 60
    assert most <= 2


def test_each_frame_gets_its_own_overlay(run, tmp_path):
    """In a folder with an image, a damaged video and a sound one."""
    network = save_checkpoint(tmp_path, *TINY)
    save_image(tmp_path / "in/a.png")
    (tmp_path / "in/bad.mp4").touch()
    write(tmp_path / "in/drive.avi", map(numbered, range(0, 60, 5)), "FFV1")
    result = run("scripts/predict.py", "checkpoint=x.ckpt", "input=in", "output=out", "alpha=0.3", "background=k1")
    assert result.code == 1
    assert "skipped: cannot read in/bad.mp4, is the file damaged? (no video stream was found)\n" in result.out
    assert "2 of 3 files predicted, in out" in result.out
    assert sorted(path.name for path in (tmp_path / "out/overlay").iterdir()) == ["a.png", "drive.mp4"]
    assert [path.name for path in (tmp_path / "out/index").iterdir()] == ["a.png"]
    found, _, _ = read(tmp_path / "out/overlay/drive.mp4")
    originals, _, _ = read(tmp_path / "in/drive.avi")
    inference = build_inference(None, {})
    for k, original in enumerate(originals):
        classes = predict(network, original, inference, None, torch.device("cpu")).classes
        expected = overlay(original, classes, ((0, 0, 0),) * len(NAMES), 0.3, 1)
        assert np.abs(found[k].astype(int) - expected).mean() < 8
        assert number_of(found[k]) == 5 * k


def test_frame_rates_that_a_file_does_not_say():
    assert [known_rate(rate) for rate in (0.0, float("nan"), 90_000.0)] == [DEFAULT_RATE] * 3
    assert known_rate(240.0) == 240
