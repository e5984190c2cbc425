"""Exceptions for user mistakes, and the translation of libraries' errors into them."""

import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Any

TO_TRAIN = (
    "lower data.batch_size (trainer.accumulate_grad_batches keeps the images per step), or data.crop_size, "
    "or set trainer.activation_checkpointing=true"
)
TO_PREDICT = (
    "inference=sliding_window reads images in windows (inference.window=...); or precision=bf16-mixed; or for evaluate "
    "inference.batch_size=1"
)

MOST_CHARACTERS = 600
"""Maximum length of a message."""


def shorten(message: str) -> str:
    """A message without its middle if it is too long: it repeats a long value of the user's."""
    if len(message) <= MOST_CHARACTERS:
        return message
    return f"{message[: MOST_CHARACTERS // 2]} ... {message[5 - MOST_CHARACTERS // 2 :]}"


def first_names(names: Sequence[str], most: int = 5) -> str:
    """The first `most` names, comma-separated, and the number of the others: `a, b and 3 more`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


class UserError(ValueError):
    """A user's mistake, described in one sentence; the command line prints it without a traceback."""

    def __init__(self, message: str) -> None:
        # A data loading worker passes an exception on as its whole traceback, at whose end the message is.
        message = message.rpartition(f"\n{type(self).__module__}.{type(self).__name__}: ")[2].strip()
        super().__init__(shorten(message))


@contextmanager
def error_context(part: str, *more: type[Exception], settings: Any = None) -> Iterator[None]:
    """Turn a library's ValueError, TypeError or `more` into a UserError that names the part of the config.

    `settings`: the part's settings; the error names those whose value the library's message contains.
    """
    reasons: tuple[type[Exception], ...] = (ValueError, TypeError, *more)
    try:
        yield
    except UserError:
        raise
    except reasons as error:
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        # pydantic's first line only counts the errors.
        text = " ".join(lines[:3] if "validation error" in lines[0] else lines[:1])
        numbers = {key: value for key, value in dict(settings or {}).items() if type(value) in (int, float)}
        named = [
            f"{part}.{key}={n}" for key, n in numbers.items() if str(n) in re.findall(r"-?\d[\w.+-]*(?<!\.)", text)
        ]
        raise UserError(f"{', '.join(named) or part}: {text}") from error


def check_range(name: str, value: float, lowest: float, highest: float = inf, above: bool = False) -> None:
    """UserError if a setting's value is outside [lowest, highest]; with `above`, `lowest` itself is outside too."""
    if not lowest <= value <= highest or (above and value == lowest):
        raise UserError(f"{name}={value}: it must be {range_in_words(lowest, highest, above)}")


def range_in_words(lowest: float, highest: float = inf, above: bool = False) -> str:
    if highest == inf:
        return f"above {lowest}" if above else f"{lowest} or more"
    return f"between {lowest} and {highest}"


def height_width(name: str, value: Any, lowest: int = 1) -> tuple[int, int]:
    """A setting in pixels, one number or [height, width], as (height, width); UserError for anything else."""
    sides = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value, value]
    if len(sides) != 2 or not all(isinstance(side, int) and side >= lowest for side in sides):
        raise UserError(f"{name}={value}: it must be a number of pixels, {lowest} or more, or [height, width]")
    return sides[0], sides[1]


class ImageError(UserError):
    """A single image that cannot be read or processed; the other images of a batch job are not affected."""


@contextmanager
def translate_errors(less: str = TO_TRAIN, image: Path | None = None) -> Iterator[None]:
    """Translate runtime failures (memory, dead workers, tiny images, nondeterministic operators) into UserErrors.

    `less`: how to use less memory, added to out-of-memory errors. `image`: the image being processed, which turns the
    error into an ImageError.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        message = explain_runtime_error(error, less)
        if message is None:
            raise
        raise (ImageError(f"{image}: {message}") if image else UserError(message)) from error


def explain_runtime_error(error: Exception, less: str) -> str | None:
    """The message for a runtime failure that a user can avoid; None if the error is a bug.

    Matched by text: this module is imported before torch and OpenCV are.
    """
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError":
        return f"the GPU's memory is full ({text.partition(' GiB')[0].rpartition(' ')[2]} GiB more were asked): {less}"
    if isinstance(error, MemoryError) or "Insufficient memory" in text or "DefaultCPUAllocator" in text:
        return f"the machine's memory is full: {less}"
    if "Output size is too small" in text or "Expected more than 1 value per channel" in text:
        return (
            f"the images are too small for this network ({text.partition(chr(10))[0]}): training images are as large "
            "as data.crop_size, and batch norm needs a data.batch_size above 1 where the feature map is a single cell"
        )
    if wrong := re.search(r"to have (\d+) channels, but got (\d+) channels instead", text):
        return f"a layer of the network reads {wrong[1]} channels and gets {wrong[2]}: does it follow data.channels?"
    if "does not have a deterministic implementation" in text:
        return f"deterministic=true: {text.split()[0]} has no deterministic form on this device; choose another part"
    died = re.match(r"DataLoader worker \(pid\(s\) [\d, ]+\) exited unexpectedly", text)
    # The connection to a dead worker breaks before torch reports the death; that ends the thread that pins memory.
    broken = isinstance(error, ConnectionError | EOFError) and "multiprocessing" in raised_in(error)
    if died or broken or "Pin memory thread exited unexpectedly" in text:
        return (
            "a data loading worker exited unexpectedly: data.num_workers=0 shows the error of the file it was reading; "
            "if memory ran out, lower data.num_workers"
        )
    return None


def raised_in(error: Exception) -> str:
    return traceback.extract_tb(error.__traceback__)[-1].filename
