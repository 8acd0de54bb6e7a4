"""What may be a name, and what a reference means."""

from __future__ import annotations

import pytest

from registry.errors import InvalidNameError
from registry.names import Reference, check_name, check_text, parse


@pytest.mark.parametrize("name", ["abdomen", "a", "ct-9", "v2.1_final", "0", "a" * 128])
def test_plain_names_are_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "it is empty"),
        ("../../x", "'/' and '\\\\' would make it a path"),
        ("a/b", "'/' and '\\\\' would make it a path"),
        ("a\\b", "'/' and '\\\\' would make it a path"),
        ("..", "'..' would make it a path"),
        ("a..b", "'..' would make it a path"),
        ("a\0b", "it holds the invisible character U\\+0000"),
        ("a\u200bb", "it holds the invisible character U\\+200B"),
        ("a\n", "it holds the invisible character U\\+000A"),
        ("a" * 300, "it has 300 characters"),
        ("\u0430bdomen", "U\\+0430 \\(CYRILLIC SMALL LETTER A\\) looks like another character"),
        ("liver\uff0fx", "U\\+FF0F \\(FULLWIDTH SOLIDUS\\) looks like another character"),
        ("Abdomen", "capitals are not told apart everywhere"),
        (".hidden", "'.' may not stand there"),
        ("-rf", "'-' may not stand there"),
        ("a b", "' ' may not stand there"),
        ("a@b", "'@' may not stand there"),
        ("caf\u00e9", "U\\+00E9 .* looks like another character"),
    ],
)
def test_other_names_are_refused_with_a_reason(name: str, why: str) -> None:
    with pytest.raises(
        InvalidNameError, match=rf"expected a name of 1 to 128 of a-z, .*: {why}; choose another"
    ) as told:
        check_name(name)
    assert "\0" not in str(told.value) and str(told.value).isascii() and told.value.exit_code == 2


def test_references() -> None:
    assert parse("abdomen") == Reference(name="abdomen")
    assert parse("abdomen:12") == Reference(name="abdomen", version=12)
    assert parse("abdomen@production") == Reference(name="abdomen", alias="production")
    assert parse("sha256:0123abcd") == Reference(digest="0123abcd")


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("abdomen:0", "expected a version number after abdomen:, got '0'"),
        ("abdomen:-1", "got '-1'"),
        ("abdomen:1:2", "got '1:2'"),
        ("abdomen:latest", "got 'latest'"),
        ("abdomen:\u0661", "got '\\\\u0661'"),
        ("abdomen@", "expected a alias"),
        ("a@b@c", "expected a alias"),
        ("../x:1", "would make it a path"),
        ("sha256:0123", "expected sha256: and 8 to 64 hexadecimal digits in lower case"),
        ("sha256:0123ABCD", "in lower case"),
        ("sha256:" + "0" * 65, "8 to 64"),
        ("", "it is empty"),
    ],
)
def test_what_is_no_reference_is_refused(reference: str, why: str) -> None:
    with pytest.raises(InvalidNameError, match=why.replace("a alias", "an alias")):
        parse(reference)


def test_notes_are_text() -> None:
    assert check_text("tuned: aorta (Ærø)\n") == "tuned: aorta (Ærø)\n"
    for bad, why in (
        ("\0", "U\\+0000"),
        ("\x1b[31m", "U\\+001B"),
        ("\ud800", "U\\+D800"),
        ("x" * 10001, "10001 characters"),
    ):
        with pytest.raises(
            InvalidNameError, match=rf"expected a note of at most 10000 printable characters, got .*{why}"
        ):
            check_text(bad)
