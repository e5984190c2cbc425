"""The one exception that stands for something a user can put right."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Raised with one sentence that names the culprit; the command line prints it without a traceback."""

    def __init__(self, message: str) -> None:
        # A DataLoader worker hands an exception on as its whole traceback: only the sentence at its end counts.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


@contextmanager
def naming(part: str, *more: type[Exception]) -> Iterator[None]:
    """Turns what a library says of bad values (ValueError, TypeError or `more`) into a sentence that names the part."""
    reasons: tuple[type[Exception], ...] = (ValueError, TypeError, *more)
    try:
        yield
    except UserError:
        raise
    except reasons as error:
        cause = error.__cause__ or error
        raise UserError(f"{part}: {str(cause).strip().partition(chr(10))[0]}") from error
