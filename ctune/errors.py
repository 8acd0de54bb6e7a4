"""Every error that ctune raises, drawn as one tree.

CtuneError                     exit code 1: the work failed
├── UsageError                 exit code 2: what was asked for cannot be done as asked
│   ├── ConfigError            a setting in ctune.toml or on the command line
│   ├── UnknownClassError      a class name that nobody knows
│   └── BenchNotHereError      a benchmark needs something that this machine lacks
├── DataError                  a file or value from outside is not what it claims to be
│   ├── ImageFileError         unreadable, truncated, empty, not an image, NaN, 4-D
│   ├── GeometryError          grid or affine: degenerate, or different from the CT's
│   └── LabelError             label values: not integers, unknown ids
├── PoolError                  the pool refuses: unknown case, annotation exists, leased
├── ModelError                 network, base and head do not fit
│   └── HeadBaseMismatchError  a head on a base that it was not tuned on
├── FrozenChangedError         exit code 4: something that must not move has moved
├── GateError                  exit code 3: a gate said no
├── RoundError                 a round is in a state that does not allow this
├── ExecutorError              no worker can be had, or none that is ready for cases
└── BenchPausedError           exit code 5: a benchmark's time is over; the same command goes on

The registry is a leaf with a tree of its own (``registry.errors``); each of its errors carries ``exit_code`` too.

A message is one line: what was expected, what came, for which case or class, and what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping


class CtuneError(Exception):
    """Root of everything that ctune raises on purpose; ``exit_code`` is what the command line ends with."""

    exit_code: int = 1


class UsageError(CtuneError):
    """What was asked for cannot be done as asked."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting is unknown, of the wrong type, or out of range."""


class UnknownClassError(UsageError):
    """A class name is not known to the model, the project or the table of text vectors."""


class BenchNotHereError(UsageError):
    """A benchmark cannot run here: an accelerator, a browser or real images that it needs are missing."""


class DataError(CtuneError):
    """A file or value from outside is not what it claims to be."""


class ImageFileError(DataError):
    """An image file cannot be read as one finite three-dimensional volume."""


class GeometryError(DataError):
    """A grid or affine is degenerate, or differs from the one it must match."""


class LabelError(DataError):
    """A label file holds values that are not labels."""


class PoolError(CtuneError):
    """The pool refuses: unknown case, an annotation that exists already, a damaged record."""


class ModelError(CtuneError):
    """A network, base or head cannot be built, loaded or put together."""


class HeadBaseMismatchError(ModelError):
    """A head was asked to run on a base that it was not tuned on."""


class FrozenChangedError(CtuneError):
    """Something that must not move has moved: a frozen parameter, buffer, mode or logit."""

    exit_code = 4


class GateError(CtuneError):
    """A gate said no."""

    exit_code = 3


class RoundError(CtuneError):
    """A round is in a state that does not allow what was asked."""


class ExecutorError(CtuneError):
    """No worker can be had where work was to be done, or none that is ready for it."""


class BenchPausedError(CtuneError):
    """A benchmark stopped because its time was over; the same command goes on where it stopped.

    document: what it says of itself in JSON: what, preset, seeds, stage, done, total, seconds, work.
    """

    exit_code = 5

    def __init__(self, message: str, document: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.document = {"paused": True, **(document or {})}
