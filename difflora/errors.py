"""What can go wrong because of what was given. Anything that is not a DiffloraError is a bug and shows itself.

DiffloraError
├── ImageFolderError   the pictures or captions to learn from
├── AdapterFileError   an adapter file that cannot be read, or does not fit the base
├── BaseModelError     the model to learn on
├── RequestError       a value in a flag, a config or a request
└── OutputError        a place that cannot be written
"""


class DiffloraError(Exception):
    """One line: the value found, what was expected, and what to do next."""


class ImageFolderError(DiffloraError):
    """The pictures or captions to learn from are not usable."""


class AdapterFileError(DiffloraError):
    """An adapter file cannot be read, or does not fit the base model."""


class BaseModelError(DiffloraError):
    """The base model cannot be opened."""


class RequestError(DiffloraError):
    """A value in a flag, a config file or a request is out of range."""


class OutputError(DiffloraError):
    """A file or folder cannot be written."""
