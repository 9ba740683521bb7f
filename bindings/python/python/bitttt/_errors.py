"""What the package raises. Each message is one line that names what is wrong and the way out."""


class BitttError(Exception):
    """Any refusal of this package."""

    __module__ = "bitttt"


class InputError(BitttError, ValueError):
    """An argument, or the moment of a call, that makes no sense. What was called is left as it was."""

    __module__ = "bitttt"


class FileError(BitttError, OSError):
    """A file that cannot be read or written, or that holds something else."""

    __module__ = "bitttt"
