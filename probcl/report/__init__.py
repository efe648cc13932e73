"""Reports: of a run, one HTML page with its numbers and pictures; of several, side by side."""

from probcl.report.compare import compare_runs
from probcl.report.history import read_history
from probcl.report.run import print_summary, write_report

__all__ = ["compare_runs", "print_summary", "read_history", "write_report"]
