"""The report: finished runs as one HTML page that needs nothing else."""

from restore_vlm.report.page import render_page, write_report

__all__ = ["render_page", "write_report"]
