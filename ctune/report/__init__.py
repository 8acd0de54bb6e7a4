"""The report of a project: one HTML file without links, scripts or fonts of its own, to look at, print and keep.

``collect`` turns a project into the values of ``data``; ``page`` turns those into HTML, ``figures`` into plots, and
``views`` and ``overlays`` volumes into planes and planes into pictures.
"""

from ctune.report.collect import report_of
from ctune.report.data import HeadFacts, ModelFacts, ReportData, RoundSummary, SelectedCase
from ctune.report.page import write_report
from ctune.report.views import Panel, View, view_of_change, view_of_selected

__all__ = [
    "HeadFacts",
    "ModelFacts",
    "Panel",
    "ReportData",
    "RoundSummary",
    "SelectedCase",
    "View",
    "report_of",
    "view_of_change",
    "view_of_selected",
    "write_report",
]
