"""Videos, read and written one frame at a time by OpenCV's FFmpeg."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from segframe.errors import ImageError, UserError
from segframe.files import translate_write_errors
from segframe.visualization.overlays import Picture

CODEC = "mp4v"
"""MPEG-4 part 2: of those that OpenCV's wheels encode, VP9 is eighty times as slow, and H.264 is not among them."""
DEFAULT_RATE = 25.0
"""Frames per second where a file does not say."""


class Video(NamedTuple):
    """A video file that is being read."""

    capture: cv2.VideoCapture
    rate: float
    """Frames per second, the mean where it varies."""
    length: int | None
    """The number of frames by the file's header, an estimate in some formats; None if it does not say."""

    def frames(self) -> Iterator[Picture]:
        """Yield the frames in their order, RGB and upright, uint8 (H, W, 3)."""
        while True:
            found, frame = self.capture.read()
            if not found:
                return
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def known_rate(rate: float) -> float:
    """Return a file's frames per second; DEFAULT_RATE where its header holds nothing or nonsense."""
    return rate if isfinite(rate) and 0 < rate <= 1000 else DEFAULT_RATE


@contextmanager
def open_video(path: Path) -> Iterator[Video]:
    """Open a video file; ImageError if it cannot be read."""
    silence_opencv()
    # An absolute path, as FFmpeg would take the first part of `http:x.mp4` for a protocol.
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise ImageError(f"cannot read {path}, is the file damaged? (no video stream was found)")
        rate, length = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        yield Video(capture, known_rate(rate), int(length) if 0 < length < 1e9 else None)
    finally:
        capture.release()


@contextmanager
def write_video(path: Path, rate: float) -> Iterator[Callable[[Picture], None]]:
    """Write an MP4 file, which replaces `path` at the end; yields the function that appends a picture.

    The codec needs even sizes: an odd height or width grows by one pixel, a copy of the last row or column.
    """
    silence_opencv()
    unfinished = path.with_name(f".{path.stem}.unfinished{path.suffix}")  # FFmpeg goes by the suffix
    with translate_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    writer, written, first = cv2.VideoWriter(), 0, (0, 0)

    def append(picture: Picture) -> None:
        nonlocal written, first
        height, width = picture.shape[:2]
        if not written:
            first = (height, width)
            size = (width + width % 2, height + height % 2)
            code = cv2.VideoWriter.fourcc(*CODEC)
            if not writer.open(str(unfinished.absolute()), cv2.CAP_FFMPEG, code, rate, size):
                raise UserError(f"cannot write {path}: the folder must be writable, and frames larger than 16 pixels")
        if (height, width) != first:
            raise ImageError(f"{path.stem} has frames of {first[0]}x{first[1]} and of {height}x{width} pixels")
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        writer.write(cv2.copyMakeBorder(bgr, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE))
        written += 1

    try:
        yield append
        writer.release()
        if written:
            _check_written(unfinished, written, path)
            os.replace(unfinished, path)
    finally:
        writer.release()
        unfinished.unlink(missing_ok=True)


def _check_written(file: Path, frames: int, path: Path) -> None:
    # The writer says nothing of a full disk; then the file lacks its end, which is an MP4's table of contents.
    try:
        with open_video(file) as video:
            found = video.length
    except ImageError:
        found = None
    if found != frames:
        raise UserError(f"cannot write {path}: the written video is not whole; is the disk full?")


def draw_video(path: Path, target: Path, draw: Callable[[Picture], Picture], step: Callable[[int | None], None]) -> int:
    """Apply `draw` to each frame of a video and write the results as a video; returns the number of frames.

    `step` is called for each frame, with the length of the video. ImageError if no frame can be read, or if the last
    ones cannot be: those before are in `target` then.
    """
    count = 0
    with open_video(path) as video, write_video(target, video.rate) as append:
        for frame in video.frames():
            append(draw(frame))
            count += 1
            step(video.length)
    if not count:
        raise ImageError(f"cannot read {path}, is the file damaged? (it has no frame)")
    # An estimate counts the sound too, which may be longer than the pictures.
    if video.length is not None and count < 0.95 * video.length - video.rate:
        missing = video.length - count
        raise ImageError(f"the last {missing} of {video.length} frames of {path} cannot be read, is the file damaged?")
    return count


def silence_opencv() -> None:
    """Let OpenCV and FFmpeg print nothing, before their first use in a process, and FFmpeg read nothing but files."""
    # A playlist may name addresses.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "protocol_whitelist;file")
    cv2.utils.logging.setLogLevel(0)
