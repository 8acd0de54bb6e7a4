"""The two pages of all results: one in Markdown for the docs, one in HTML with figures that needs nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from ctune.bench.report.html import html
from ctune.bench.report.markdown import markdown
from ctune.bench.report.sections import Section, read_notes, sections
from ctune.bench.result import all_results
from ctune.data.files import write_atomically
from ctune.errors import UsageError

MARKDOWN, HTML = Path("docs/benchmarks.md"), Path("docs/benchmarks.html")


def write_pages(folder: Path, markdown_to: Path = MARKDOWN, html_to: Path = HTML) -> list[Section]:
    """Write both pages from the results in `folder`; the same results give the same bytes.

    Raises UsageError when there are none, DataError for a file that is no result, or whose document cannot be told.
    """
    found = sections(all_results(folder), read_notes(folder))
    if not found:
        raise UsageError(
            f"expected results in {folder}, found none; measure first, `ctune bench registry` for one"
        )
    links = os.path.relpath(folder.resolve(), markdown_to.resolve().parent)
    pages = {markdown_to: markdown(found, Path(links), html_to.name), html_to: html(found)}
    for path, text in pages.items():
        with write_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return found
