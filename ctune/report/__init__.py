"""The report of a project: one HTML file without links, scripts or fonts of its own, to look at, print and keep."""

from ctune.report.collect import Overlay, ReportData, RoundReport, report_of
from ctune.report.page import write_report

__all__ = ["Overlay", "ReportData", "RoundReport", "report_of", "write_report"]
