"""Every error that is the input's fault; the command line prints one line and exits with code 2."""


class CorellarecError(Exception):
    """What was found, what is allowed, and what to do next, in one line."""


class ConfigError(CorellarecError):
    """A setting is unknown, out of range, or contradicts another."""


class DataError(CorellarecError):
    """A data file is missing, malformed, or cannot be used for the task."""


class FetchError(CorellarecError):
    """A data set or model could not be obtained, or failed its checksum."""


class ModelError(CorellarecError):
    """A language model or its tokenizer cannot be used."""


class RemoteError(ModelError):
    """A language model's server cannot be reached, refuses, or answers what cannot be trusted."""


class ArtifactError(CorellarecError):
    """A file that this program wrote earlier is missing, incomplete or damaged."""
