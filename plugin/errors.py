"""Every error that attnbridge raises on purpose.

::

    AttentionError
    ├── DimensionMismatchError    (ValueError)       sizes that must agree do not
    ├── InvalidConfigError        (ValueError)       an option or a combination of options that cannot be
    ├── InvalidMaskError          (ValueError)       a mask or filter of the wrong shape or type
    ├── InvalidInputError         (ValueError)       NaN, zero vectors, ragged rows, empty keys, unreadable data
    ├── InputTooLargeError        (ValueError)       beyond a limit that guards against abuse
    ├── UnknownIdError            (KeyError)         an id that the index does not hold
    ├── NumericalInstabilityError (ArithmeticError)  a result that cannot be represented
    ├── GraphStructureError       (ValueError)       a graph that lacks what an operation needs
    ├── SparseMatrixError         (ValueError)       a malformed sparse mask or adjacency
    ├── TrainingError             (RuntimeError)     training that cannot go on
    ├── IndexCorruptError         (OSError)          a folder that is no index, or a damaged one
    ├── ConcurrencyError          (RuntimeError)     a call that would wait for itself, or for another process
    └── MissingDependencyError    (ImportError)      an optional package is not there; the message has the remedy
"""


class AttentionError(Exception):
    """Base of all errors of this library."""


class DimensionMismatchError(AttentionError, ValueError):
    """Sizes that must agree do not."""


class InvalidConfigError(AttentionError, ValueError):
    """An option, or a combination of options, that cannot be."""


class InvalidMaskError(AttentionError, ValueError):
    """A mask or filter of the wrong shape or type."""


class InvalidInputError(AttentionError, ValueError):
    """Data that cannot be used: NaN, zero vectors under cosine, ragged rows, empty keys, unreadable files."""


class InputTooLargeError(AttentionError, ValueError):
    """Input beyond a limit that guards against abuse."""


class UnknownIdError(AttentionError, KeyError):
    """An id that the index does not hold."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the message in quotes


class NumericalInstabilityError(AttentionError, ArithmeticError):
    """A result that cannot be represented."""


class GraphStructureError(AttentionError, ValueError):
    """A graph that lacks what an operation needs."""


class SparseMatrixError(AttentionError, ValueError):
    """A malformed sparse mask or adjacency."""


class TrainingError(AttentionError, RuntimeError):
    """Training that cannot go on."""


class IndexCorruptError(AttentionError, OSError):
    """A folder that is no index, or one whose files are damaged."""


class ConcurrencyError(AttentionError, RuntimeError):
    """A call that would wait for itself, or a folder that another process has open for writing."""


class MissingDependencyError(AttentionError, ImportError):
    """An optional package is not installed; the message names the command that installs it."""
