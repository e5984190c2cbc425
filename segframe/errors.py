"""The one exception that stands for something a user can put right."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Raised with one sentence that names the culprit; the command line prints it without a traceback."""

    def __init__(self, message: str) -> None:
        # A DataLoader worker hands an exception on as its whole traceback: only the sentence at its end counts.
        super().__init__(message.rpartition(f"\n{type(self).__module__}.{type(self).__name__}: ")[2].strip())


@contextmanager
def naming(part: str, *more: type[Exception]) -> Iterator[None]:
    """Turns what a library says of bad values (ValueError, TypeError or `more`) into a sentence that names the part."""
    reasons: tuple[type[Exception], ...] = (ValueError, TypeError, *more)
    try:
        yield
    except UserError:
        raise
    except reasons as error:
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        # pydantic's first line only counts the errors.
        raise UserError(f"{part}: {' '.join(lines[:3] if 'validation error' in lines[0] else lines[:1])}") from error


def check_range(name: str, value: float, lowest: float, highest: float = float("inf")) -> None:
    """UserError where a setting's value is not `lowest` ... `highest`."""
    if not lowest <= value <= highest:
        limits = f"{lowest:g} or more" if highest == float("inf") else f"between {lowest:g} and {highest:g}"
        raise UserError(f"{name} must be {limits}, got {value}")
