"""Reports: on an evaluation, one HTML page with numbers and pictures; on several, side by side."""

from probcl.report.compare import compare_runs
from probcl.report.run import print_summary, write_report

__all__ = ["compare_runs", "print_summary", "write_report"]
