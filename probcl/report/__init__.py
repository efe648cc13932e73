"""Reports: on an evaluation, one HTML page with numbers and pictures; on several, side by side."""

from probcl.report.compare import compare_runs
from probcl.report.run import headline, print_summary, rewrite_report, write_report

__all__ = ["compare_runs", "headline", "print_summary", "rewrite_report", "write_report"]
