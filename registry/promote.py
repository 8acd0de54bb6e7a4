"""Move an alias to a better model, or back."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from registry.errors import GateError, InvalidNameError, RegistryError
from registry.gate import Gate, Verdict, judge, shared_evaluation
from registry.names import check_name, parse

if TYPE_CHECKING:
    from registry.registry import Registry
    from registry.rows import Version


@dataclass(frozen=True)
class Promotion:
    """An alias that has moved; `verdict` is None when there was nothing to compare with, or no gate was asked for."""

    name: str
    alias: str
    before: int | None
    after: int
    verdict: Verdict | None


def promote(
    registry: Registry, reference: str, alias: str, *, gate: Gate | None = Gate(), actor: str
) -> Promotion:
    """Point ``NAME@alias`` at the version that `reference` means, if no class falls by more than the gate's margin.

    Raises GateError, naming the classes, when one does or when the two cannot be compared; RegistryError when another
    process moved the alias meanwhile.
    """
    check_name(alias, "alias")
    version = version_of(registry, reference)
    before = registry.aliases(version.name).get((version.name, alias))
    verdict = None
    if gate is not None and before is not None and before != version.version:
        current = registry.catalog.version(version.name, before)
        verdict = _judge(registry, current, version, gate)
        if not verdict.passed:
            raise GateError(
                f"{version} was not promoted to {alias}: {_falls(verdict, gate)}; revise and tune those classes, or "
                f"compose {current}'s heads for them"
            )
    # The verdict is of the version that the alias pointed at then: whoever moved it meanwhile has the word.
    registry.catalog.move_alias(
        version.name,
        alias,
        version.version,
        actor=actor,
        action="promote",
        details={"gate": asdict(gate) if gate else None, "verdict": asdict(verdict) if verdict else None},
        expected=before,
    )
    return Promotion(version.name, alias, before, version.version, verdict)


def rollback(registry: Registry, reference: str, *, actor: str) -> Promotion:
    """Point ``NAME@ALIAS`` at where it pointed before; once more goes one further back.

    Raises RegistryError when there is nothing before.
    """
    wanted = parse(reference)
    if wanted.name is None or wanted.alias is None:
        raise InvalidNameError(f"expected NAME@ALIAS to roll back, got {reference!r}; name the alias")
    name, alias = wanted.name, wanted.alias
    trail: list[int] = []
    for event in registry.events(name):
        if event.details.get("alias") != alias:
            continue
        if event.action == "rollback":
            trail.pop()
        elif not trail or trail[-1] != event.details["to"]:
            trail.append(event.details["to"])
    if len(trail) < 2:
        raise RegistryError(
            f"expected {name}@{alias} to have pointed at another version before, it has not; point it where you want "
            f"with `ctune registry alias {name}:VERSION {alias}`"
        )
    registry.catalog.move_alias(name, alias, trail[-2], actor=actor, action="rollback", expected=trail[-1])
    return Promotion(name, alias, trail[-1], trail[-2], None)


def version_of(registry: Registry, reference: str) -> Version:
    """The version that a reference means: an alias belongs to a name. Raises InvalidNameError for a model without one."""
    wanted = parse(reference)
    digest = registry.resolve(reference)
    if wanted.version is not None:
        return registry.catalog.version(str(wanted.name), wanted.version)
    found = registry.catalog.versions(wanted.name, digest)
    if not found:
        raise InvalidNameError(
            f"expected a version of a name, got {reference}, which is none; name it with `ctune registry compose`"
        )
    if len({v.name for v in found}) > 1:
        raise InvalidNameError(
            f"expected one name, {reference} is {', '.join(map(str, found))}; say which with NAME:VERSION"
        )
    if wanted.alias is not None:
        number = registry.aliases(wanted.name)[str(wanted.name), wanted.alias]
        return registry.catalog.version(str(wanted.name), number)
    return found[-1]


def _judge(registry: Registry, current: Version, candidate: Version, gate: Gate) -> Verdict:
    pair = shared_evaluation(registry.evaluations(current.digest), registry.evaluations(candidate.digest))
    if pair is None:
        raise GateError(
            f"expected {candidate} and {current} to be evaluated on the same split, they are not; run "
            f"`ctune evaluate` on both first"
        )
    return judge(*pair, gate)


def _falls(verdict: Verdict, gate: Gate) -> str:
    parts = [
        f"{row.class_name} is missing (it had {gate.metric} {row.before:.3f})"
        if row.after is None
        else f"{row.class_name} {row.before:.3f} -> {row.after:.3f} (lower end of the change {row.lower:+.3f}, "
        f"{row.cases} cases)"
        for row in verdict.fallen
    ]
    return f"more than {gate.margin:g} {gate.metric} may be lost on {verdict.split} for " + ", ".join(parts)
