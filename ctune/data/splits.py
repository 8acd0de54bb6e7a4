"""Which cases are kept for testing and validation."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from ctune.errors import UsageError
from ctune.types import Split


@dataclass(frozen=True)
class Splits:
    """Which cases of an import are kept for testing and validation.

    `test` and `validation` cases are drawn by a hash of `seed` and the id: the same whatever their order.
    `rest` gets the others; `strict` refuses a case that the pool holds in another split.
    """

    test: int = 0
    validation: int = 0
    seed: int = 0
    rest: Split = Split.POOL
    strict: bool = False

    def of(self, case_ids: Collection[str]) -> dict[str, Split]:
        """{id: split}. Raises UsageError when there are fewer cases than are to be kept."""
        if self.test + self.validation > len(case_ids):
            raise UsageError(
                f"expected at least {self.test + self.validation} cases to keep {self.test} for testing and "
                f"{self.validation} for validation, got {len(case_ids)}; keep fewer"
            )
        drawn = sorted(case_ids, key=lambda c: hashlib.sha256(f"{self.seed}:{c}".encode()).digest())
        out = dict.fromkeys(drawn, self.rest)
        out.update(dict.fromkeys(drawn[: self.test], Split.TEST))
        out.update(dict.fromkeys(drawn[self.test : self.test + self.validation], Split.VALIDATION))
        return out
