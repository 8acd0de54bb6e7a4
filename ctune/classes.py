"""Names of classes and the one place where names become channels.

Everywhere in ctune a class is a name. ``ClassList`` is the only code that turns names into channel numbers and back.
Names that other data sets use are mapped to ours by ``canonical`` (``inferior_vena_cava``, ``IVC`` -> ``postcava``).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ctune.errors import UnknownClassError

NINE_ORGANS = (
    "spleen",
    "kidney_right",
    "kidney_left",
    "pancreas",
    "liver",
    "stomach",
    "aorta",
    "postcava",
    "gall_bladder",
)
"""The organs of the paper (Zhang et al., ISBI 2024, section 3.1)."""

OLD_FIVE = ("spleen", "kidney_right", "kidney_left", "pancreas", "liver")
"""The classes of AbdomenCT-1K, which the paper's base is trained on."""

NEW_FOUR = ("stomach", "aorta", "postcava", "gall_bladder")
"""The classes that the paper's expert adds."""

ALIASES: Mapping[str, str] = {
    "inferior_vena_cava": "postcava",
    "ivc": "postcava",
    "post_cava": "postcava",
    "vena_cava_inferior": "postcava",
    "venacava": "postcava",
    "gallbladder": "gall_bladder",
    "right_kidney": "kidney_right",
    "rkidney": "kidney_right",
    "r_kidney": "kidney_right",
    "kidney_r": "kidney_right",
    "left_kidney": "kidney_left",
    "lkidney": "kidney_left",
    "l_kidney": "kidney_left",
    "kidney_l": "kidney_left",
    "adrenal_gland_right": "adrenal_gland_right",
    "right_adrenal_gland": "adrenal_gland_right",
    "right_adrenal": "adrenal_gland_right",
    "adrenal_gland_r": "adrenal_gland_right",
    "rag": "adrenal_gland_right",
    "rad": "adrenal_gland_right",
    "left_adrenal_gland": "adrenal_gland_left",
    "left_adrenal": "adrenal_gland_left",
    "adrenal_gland_l": "adrenal_gland_left",
    "lag": "adrenal_gland_left",
    "lad": "adrenal_gland_left",
    "oesophagus": "esophagus",
    "urinary_bladder": "urinary_bladder",
    "bladder": "urinary_bladder",
    "large_bowel": "colon",
    "large_intestine": "colon",
    "small_intestine": "small_bowel",
    "abdominal_aorta": "aorta",
    "portal_vein_and_splenic_vein": "portal_vein_and_splenic_vein",
    "portal_and_splenic_vein": "portal_vein_and_splenic_vein",
    "portal_vein_splenic_vein": "portal_vein_and_splenic_vein",
    "right_lung": "lung_right",
    "left_lung": "lung_left",
    "femoral_head_right": "femur_head_right",
    "femoral_head_left": "femur_head_left",
    "head_of_femur_r": "femur_head_right",
    "head_of_femur_l": "femur_head_left",
    "hepatic_tumor": "liver_tumor",
    "liver_tumour": "liver_tumor",
    "pancreatic_tumor": "pancreas_tumor",
    "pancreas_tumour": "pancreas_tumor",
    "kidney_tumour": "kidney_tumor",
}
"""Other people's names -> ours, after lower-casing and turning blanks, dots and dashes into underscores."""

_VALID = re.compile(r"[a-z0-9](?:[a-z0-9_]{0,62}[a-z0-9])?")


def canonical(name: str, aliases: Mapping[str, str] | None = None) -> str:
    """The name of a class as ctune writes it: lower case, underscores, aliases resolved.

    `aliases` are a project's own additions and win over the built-in table.
    Raises UnknownClassError for a text that cannot be a class name.

    >>> canonical("Inferior Vena Cava"), canonical("GallBladder"), canonical("spleen")
    ('postcava', 'gall_bladder', 'spleen')
    """
    key = re.sub(r"[\s.\-/]+", "_", name.strip().lower())
    if aliases:
        own = {re.sub(r"[\s.\-/]+", "_", k.strip().lower()): v for k, v in aliases.items()}
        if key in own:
            key = own[key]
    key = ALIASES.get(key, key)
    if not _VALID.fullmatch(key):
        raise UnknownClassError(
            f"expected a class name of 1 to 64 letters, digits and underscores, got {name!r}; rename the class"
        )
    return key


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to `name`, or None when nothing is close; for messages that suggest."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


@dataclass(frozen=True)
class ClassList(Sequence[str]):
    """An ordered list of distinct class names; position in it is the channel.

    >>> classes = ClassList.of(["liver", "IVC"])
    >>> classes.channel("postcava"), classes[0]
    (1, 'liver')
    """

    names: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str], aliases: Mapping[str, str] | None = None) -> ClassList:
        """Canonical names in the order given. Raises UnknownClassError for a doubled or impossible name."""
        out: list[str] = []
        for name in names:
            c = canonical(name, aliases)
            if c in out:
                raise UnknownClassError(
                    f"expected every class once, got {name!r} ({c}) twice; remove one of them"
                )
            out.append(c)
        return cls(tuple(out))

    def channel(self, name: str) -> int:
        """Channel of a class. Raises UnknownClassError and names the nearest class when it is not here."""
        try:
            return self.names.index(canonical(name))
        except ValueError:
            hint = nearest(canonical(name), self.names)
            known = ", ".join(self.names) or "none"
            suggestion = f"did you mean {hint!r}?" if hint else "add it by tuning a head for it"
            raise UnknownClassError(
                f"expected one of the classes {known}; got {name!r}; {suggestion}"
            ) from None

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        return self.names[index]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)
