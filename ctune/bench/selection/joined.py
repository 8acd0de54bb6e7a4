"""Results of selection that measured different data sets, told as one: five seeds of each take hours, and each has its day."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ctune.bench.catalogue import Preset
from ctune.bench.result import BenchResult


def joined(results: Sequence[BenchResult]) -> BenchResult:
    """The last of `results` (of one preset and device, oldest first), with each data set from the result that has most seeds of it, of
    these the last: one seed does not hide five. `failures` says which are older. Measures and gates are computed anew.
    """
    # Imported here: with it comes what reads cohorts, which a list of results does not need.
    from ctune.bench.selection.figures import ENDS, gates, summary
    from ctune.bench.selection.protocol import ALONE

    newest = results[-1]
    details, said = dict[str, Any](), list[str]()
    for name in (*ENDS, *ALONE):
        found = max(reversed(results), key=lambda one: len(list(_seeds_of(one, name))))
        measured = dict(_seeds_of(found, name))
        for seed, value in measured.items():
            details.setdefault(seed, {})[name] = value
        if measured and found is not newest:
            said.append(f"{name}: measured {found.started[:10]}, commit {', '.join(found.commits)}")
    alone = {key: details.pop(name)[name] for name, key in ALONE.items() if name in details}
    details = dict(sorted(details.items()))
    measures = summary(list(details.values()), alone.get("large"), alone.get("cost"))
    lacking = [
        text for text in newest.failures if text.split(":")[0] not in [one.split(":")[0] for one in said]
    ]
    return newest.model_copy(
        update={
            "seeds": tuple(sorted(int(name.removeprefix("seed ")) for name in details)),
            "measures": measures,
            "details": {**details, **alone},
            "gates": tuple(gates(measures, Preset(newest.preset))),
            "failures": (*lacking, *said),
        }
    )


def _seeds_of(result: BenchResult, data: str) -> Iterator[tuple[str, Any]]:
    """(seed, what was found) of one data set; of what is measured once its name stands for the seed."""
    from ctune.bench.selection.protocol import ALONE

    if data in ALONE:
        if ALONE[data] in result.details:
            yield data, result.details[ALONE[data]]
        return
    for name, value in result.details.items():
        if name.startswith("seed ") and isinstance(value, dict) and data in value:
            yield name, value[data]
