"""Push to and pull from a mirror: a folder or any fsspec URL that holds versions of models without a database.

blobs/sha256/ab/abcd...    records and weights, as in a registry
refs/NAME/3.json           the manifest of NAME:3, written last; afterwards it only gains evaluations
Only what is missing travels; a transfer that was cut off goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from registry.errors import ExistsError, InvalidNameError, NotFoundError
from registry.folder import FolderStore
from registry.names import Reference, check_name, parse
from registry.node_cache import NodeCache
from registry.parcel import Manifest, Moved, join, pack, read_manifest, take_in
from registry.store import Store

if TYPE_CHECKING:
    from registry.registry import Registry

OnMoved = Callable[[int, int, str], None]
"""Told (done, total, what) after each version."""
_LEFT_BEHIND_S = 86400.0


def open_store(where: str | Path, cache: NodeCache | None = None) -> Store:
    """The store in a folder or at an fsspec URL; blobs of a URL that are read are kept in `cache`."""
    text = str(where)
    if text.startswith("file://"):
        return FolderStore(Path(text.removeprefix("file://")))
    if "://" in text or "::" in text:
        from registry.remote import RemoteStore

        return RemoteStore(text, cache)
    return FolderStore(Path(text))


def push(
    registry: Registry, url: str | Path, references: Sequence[str] = (), on_moved: OnMoved = lambda *_: None
) -> list[Moved]:
    """Send versions (by default all) to a mirror; what others have added to them there stays.

    Raises ExistsError when a version means something else there, and what ``pull`` would raise for what others have added.
    """
    mirror = open_store(url)
    mirror.sweep(_LEFT_BEHIND_S)
    wanted = list(references) or [str(version) for version in registry.versions()]
    moved = []
    for done, reference in enumerate(_spelled_out(registry, wanted), start=1):
        moved.append(_send(registry, mirror, reference))
        on_moved(done, len(wanted), reference)
    return moved


def pull(
    registry: Registry,
    url: str | Path,
    references: Sequence[str] = (),
    *,
    rename: str | None = None,
    actor: str,
    on_moved: OnMoved = lambda *_: None,
) -> list[Moved]:
    """Bring versions (NAME: the newest, NAME:VERSION; by default all) from a mirror.

    A version keeps its number; `rename` takes a single one in under another name. Raises NotFoundError, ExistsError.
    """
    mirror = open_store(url)
    refs = _wanted(mirror, references)
    if rename and len({name for name, _ in refs}) > 1:
        raise InvalidNameError(f"expected one model to take in as {rename}, got several; name one")
    moved, seen = [], set[str]()
    for done, (name, number) in enumerate(refs, start=1):
        manifest = _manifest(mirror, name, number)
        moved.append(
            take_in(
                registry, manifest, mirror.read, origin=mirror.where, actor=actor, rename=rename, seen=seen
            )
        )
        on_moved(done, len(refs), f"{name}:{number}")
    return moved


def _spelled_out(registry: Registry, references: Sequence[str]) -> list[str]:
    from registry.promote import version_of

    return [str(version_of(registry, reference)) for reference in references]


def _send(registry: Registry, mirror: Store, reference: str) -> Moved:
    manifest, blobs = pack(registry, reference)
    ref = f"{manifest.name}/{manifest.version}.json"
    found = mirror.read_ref(ref)
    there = None if found is None else read_manifest(found, f"{mirror.where}/refs/{ref}")
    if there is not None and there.model != manifest.model:
        raise ExistsError(
            f"expected {reference} to be free or the same in {mirror.where}, it is another model there; a version never "
            "changes: register yours under another name"
        )
    count = size = 0
    for blob in blobs:
        if blob not in mirror:
            mirror.write(blob, registry.store.chunks(blob))
            count, size = count + 1, size + registry.store.size(blob)
    sent = 0
    for carried in manifest.records:
        if carried.digest not in mirror:
            row = registry.catalog.record(carried.digest)
            assert row is not None
            mirror.write(carried.digest, [row.body])
            sent += 1
    # Evaluations come later than their model, from whoever made them: a manifest gains records and loses none.
    joined = manifest if there is None else join(registry, there, manifest, mirror.read, mirror.where)
    if joined != there:
        mirror.write_ref(ref, joined.encode())
    return Moved(manifest.name, manifest.version, manifest.model, sent, count, size)


def _wanted(mirror: Store, references: Sequence[str]) -> list[tuple[str, int]]:
    there = _listing(mirror)
    if not references:
        return [(name, number) for name in sorted(there) for number in there[name]]
    chosen = []
    for reference in references:
        parsed = parse(reference)
        if parsed.name is None or parsed.alias is not None:
            raise InvalidNameError(
                f"expected NAME or NAME:VERSION to pull, got {reference!r}; aliases stay in their registry"
            )
        chosen.append((parsed.name, _number(mirror, there, parsed, reference)))
    return chosen


def _number(mirror: Store, there: dict[str, list[int]], wanted: Reference, reference: str) -> int:
    numbers = there.get(str(wanted.name), [])
    if not numbers or wanted.version not in (None, *numbers):
        known = ", ".join(f"{name}:{found[-1]}" for name, found in sorted(there.items())) or "nothing"
        raise NotFoundError(f"expected {reference} in {mirror.where}, it holds {known}; push it there first")
    return wanted.version or numbers[-1]


def _listing(mirror: Store) -> dict[str, list[int]]:
    """{name: version numbers in order}; files that are no versions are passed over."""
    found: dict[str, list[int]] = {}
    for ref in mirror.refs():
        name, _, number = ref.removesuffix(".json").rpartition("/")
        if number.isascii() and number.isdigit() and "/" not in name:
            found.setdefault(check_name(name), []).append(int(number))
    return {name: sorted(numbers) for name, numbers in found.items()}


def _manifest(mirror: Store, name: str, number: int) -> Manifest:
    data = mirror.read_ref(f"{name}/{number}.json")
    manifest = read_manifest(data or b"", f"{mirror.where}/refs/{name}/{number}.json")
    if (manifest.name, manifest.version) != (name, number):
        raise InvalidNameError(
            f"expected the manifest of {name}:{number} in {mirror.where}, got one of {manifest.name}:{manifest.version}; "
            "push it again"
        )
    return manifest
