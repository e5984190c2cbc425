"""The one exception that stands for something a user can put right."""


class UserError(ValueError):
    """Raised with one sentence that names the culprit; the command line prints it without a traceback."""

    def __init__(self, message: str) -> None:
        # A DataLoader worker hands an exception on as its whole traceback: only the sentence at its end counts.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())
