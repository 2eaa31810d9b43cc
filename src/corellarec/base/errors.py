"""Every error that is the input's fault; the command line prints one line and exits with code 2."""

LONGEST = 2000  # characters of a message


class CorellarecError(Exception):
    """What was found, what is allowed, and what to do next, in one line."""

    def __str__(self) -> str:
        """The message as one printable line, whatever the input brought into it."""
        text = super().__str__()
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
        if text.isprintable():
            return text
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class ConfigError(CorellarecError):
    """A setting is unknown, out of range, or contradicts another."""


class DataError(CorellarecError):
    """A data file is missing, malformed, or cannot be used for the task."""


class FetchError(CorellarecError):
    """A data set or model could not be obtained, or failed its checksum."""


class UnreachableError(FetchError):
    """A host cannot be reached, answers with an error, or does not deliver in time."""


class ModelError(CorellarecError):
    """A language model or its tokenizer cannot be used."""


class RemoteError(ModelError):
    """A language model's server cannot be reached, refuses, or answers what cannot be trusted."""


class ArtifactError(CorellarecError):
    """A file that this program wrote earlier is missing, incomplete or damaged."""


class LockedError(CorellarecError):
    """Another process works on the same directory or file."""


class WorkerError(CorellarecError):
    """A process of a job ended before its work."""


def one_line(words: str, length: int = 300) -> str:
    """Words from elsewhere as one line of printable characters, for a message.

    Args:
        words: Text that may hold line breaks and escape codes.
        length: Most characters of the result; what is cut ends in ``...``.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in words[: 4 * length]).split())
    return line if len(line) <= length else line[: length - 3] + "..."
