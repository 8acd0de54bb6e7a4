"""What a benchmark leaves: one document a run, with everything that is needed to judge or repeat it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    ValidationError,
    computed_field,
    model_serializer,
)

from ctune.data.files import read_json, write_json
from ctune.errors import DataError, GateError, UsageError

SCHEMA_VERSION = 2
"""Rises when a field changes its meaning or goes; a new field does not raise it."""
READABLE = (1, SCHEMA_VERSION)
"""1: `seconds` were those of all attempts; 2: of all parts, and of the attempts outside of them."""


class Gate(BaseModel):
    """A bound that a figure must keep. at_most: the figure may not be above `bound`, else not below it.

    value: None when it could not be measured or nothing can be said of it, which does not pass. seeds: how many are behind it,
    where these are not all of the run. reference: what the bound was set by, in words
    ("2.1 on two cores, results/registry-cpu-cpu.json").
    """

    model_config = ConfigDict(frozen=True)
    figure: str
    value: float | None
    bound: float
    reference: str
    at_most: bool = True
    seeds: int | None = None

    @model_serializer(mode="wrap")
    def _without_seeds_of_all(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if value is not None or name != "seeds"}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def passed(self) -> bool:
        """Whether the figure keeps its bound; false also for not-a-number."""
        if self.value is None:
            return False
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def __str__(self) -> str:
        side = "at most" if self.at_most else "at least"
        got = "none" if self.value is None else f"{self.value:.4g}"
        return f"{self.figure}: expected {side} {self.bound:g}, got {got}; reference: {self.reference}"


def check_gates(gates: Sequence[Gate]) -> None:
    """Raise GateError with figure, bound and reference of every gate that was not passed.

    >>> check_gates([Gate(figure="register_ratio", value=2.5, bound=3.0, reference="1.9 on two cores")])
    """
    failed = [str(gate) for gate in gates if not gate.passed]
    if failed:
        raise GateError(f"{'; '.join(failed)}; find what made it worse, or move the bound and say why")


@dataclass(frozen=True)
class Measured:
    """What a benchmark's function returns.

    measures: {name: figure}, the few that it is about; they stand at the top of the document. details: everything else,
    every case's figures and every duration included. failures: what could not be measured, in words. data: {what: sha256
    in hexadecimal} of everything that was read or generated. gates: bounds on measures. parts: {name: what it took} of
    parts that were taken from elsewhere than this run's folder.
    """

    measures: Mapping[str, Any]
    details: Mapping[str, Any] = field(default_factory=dict)
    failures: Sequence[str] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    gates: Sequence[Gate] = ()
    parts: Mapping[str, Part] = field(default_factory=dict)


class _Spent(BaseModel):
    """started: UTC. peak_memory_mb, gpu_peak_mb: MiB, the highest. commit: of the source, if known. device, machine: where."""

    model_config = ConfigDict(frozen=True)
    started: str
    peak_memory_mb: float
    commit: str | None
    device: str | None = None
    machine: dict[str, JsonValue] = Field(default_factory=dict)
    gpu_peak_mb: float | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # A processor has no accelerator's memory: a 0 or null would read as if it had been measured.
        unknown = ("gpu_peak_mb", "joules", "own_joules")
        return {
            name: value for name, value in write(self).items() if value is not None or name not in unknown
        }


class Part(_Spent):
    """What one finished part of a run took, over all attempts at it. own_seconds, own_joules: without the parts within it."""

    own_seconds: float
    own_joules: float | None = None
    parts: dict[str, Part] = Field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """All of it, the parts within it included."""
        return self.own_seconds + sum(inner.seconds for inner in self.parts.values())

    @property
    def joules(self) -> float | None:
        """The same of energy; None where it was not read."""
        inner = [each.joules for each in self.parts.values()]
        return None if self.own_joules is None else self.own_joules + sum(j or 0.0 for j in inner)

    def all(self) -> Iterator[Part]:
        """This one and all within it."""
        yield self
        for inner in self.parts.values():
            yield from inner.all()


class Attempt(_Spent):
    """One process of a run that may have been stopped and resumed.

    outside_parts: of its seconds, those in no part; None in a result of schema 1, where they were not told apart.
    joules: of the accelerator outside of parts.
    """

    seconds: float
    outside_parts: float | None = None
    joules: float | None = None


class BenchResult(BaseModel):
    """The record of one run.

    seconds: of all its parts, wherever they were made, and of its attempts outside of parts; each second counts once.
    peak_memory_mb, gpu_peak_mb: MiB, the highest of all. joules: of the accelerator, where it tells. machine: the last one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: int = SCHEMA_VERSION
    what: str
    preset: str
    device: str
    machine: dict[str, JsonValue]
    versions: dict[str, str]
    seeds: tuple[int, ...]
    started: str
    seconds: float
    peak_memory_mb: float
    attempts: tuple[Attempt, ...]
    parts: dict[str, Part] = Field(default_factory=dict)
    gpu_peak_mb: float | None = None
    joules: float | None = None
    data: dict[str, str] = Field(default_factory=dict)
    measures: dict[str, JsonValue]
    gates: tuple[Gate, ...] = ()
    details: dict[str, JsonValue] = Field(default_factory=dict)
    failures: tuple[str, ...] = ()

    @property
    def commits(self) -> tuple[str, ...]:
        """Every version of the source that took part, the oldest first."""
        spent = [*self.attempts, *(each for part in self.parts.values() for each in part.all())]
        known = sorted(spent, key=lambda each: each.started)
        return tuple(dict.fromkeys(each.commit for each in known if each.commit))

    def document(self) -> dict[str, Any]:
        """The record as one flat JSON document: its measures stand beside the other fields, their names in `measures`."""
        whole = self.model_dump(mode="json")
        if self.gpu_peak_mb is None:
            del whole["gpu_peak_mb"]
        if self.joules is None:
            del whole["joules"]
        head = ("schema_version", "what", "preset", "device", "seeds")
        return {
            **{key: whole[key] for key in head},
            **self.measures,
            "measures": sorted(self.measures),
            **{key: value for key, value in whole.items() if key not in (*head, "measures")},
        }


def check_measures(measures: Mapping[str, Any]) -> None:
    """Raise DataError for a measure with the name of a field: it would hide it in the document."""
    if taken := sorted(set(measures) & set(BenchResult.model_fields)):
        raise DataError(f"expected measures with names of their own, got {', '.join(taken)}; rename them")


def write_result(result: BenchResult, folder: Path) -> Path:
    """Write a result as ``WHAT-PRESET-DEVICE.json`` and return where; an earlier run is never overwritten, a number is
    added."""
    device = re.sub(r"[^a-z0-9]+", "-", result.device.lower()).strip("-") or "cpu"
    stem, number = f"{result.what}-{result.preset}-{device}", 1
    while (path := folder / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")).exists():
        number += 1
    # A line a value, so that git sees what changed; not indented: by case there are tens of thousands, and that is a third of the file.
    write_json(path, result.document(), indent=0)
    return path


def read_result(path: Path) -> BenchResult:
    """A result as it was written. Raises DataError for another schema or a file that is none."""
    try:
        document = read_json(path)
        if not isinstance(document, dict):
            raise TypeError(f"a {type(document).__name__}")
        version = document["schema_version"]
        if version not in READABLE:
            known = " or ".join(map(str, READABLE))
            raise DataError(
                f"expected schema version {known} in {path}, got {version}; measure again, or use that ctune"
            )
        measures = {name: document.pop(name) for name in document["measures"]}
        if document["device"] == "cpu":
            measures.pop("gpu_peak_mb", None)  # of schema 1: a 0 for each way, as if it had been measured
        return BenchResult.model_validate({**document, "measures": measures})
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        problem = " ".join(str(error).split())[:200]
        raise DataError(
            f"expected the result of a benchmark in {path}, got: {problem}; measure again"
        ) from None


def all_results(folder: Path) -> list[tuple[Path, BenchResult]]:
    """Every result in a folder, oldest first. Raises DataError for a JSON file that is none, UsageError for no folder."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            f"expected a folder of results, got the file {folder}; name the folder that holds it"
        )
    found = [(path, read_result(path)) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda pair: pair[1].started)
