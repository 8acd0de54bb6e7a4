"""Reading gzip files, in a fifth of the time that the standard library takes (ISA-L)."""

from __future__ import annotations

import gzip
from pathlib import Path

from isal import igzip, isal_zlib

DAMAGED: type[Exception] = isal_zlib.error  # type: ignore[assignment]
"""What reading raises where the compressed data are damaged; cut short is EOFError, no gzip file BadGzipFile, an OSError."""


def gunzipped(path: Path) -> gzip.GzipFile:
    """A gzip file to read from; its checksum is compared when its end is read."""
    file: gzip.GzipFile = igzip.IGzipFile(path, "rb")  # type: ignore[no-untyped-call]
    return file
