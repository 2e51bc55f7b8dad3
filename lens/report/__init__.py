"""A router set as a folder of figures, tables and one page: `python -m lens.report`."""

from lens.report.parts import Settings
from lens.report.write import Report, write_report

__all__ = [
    "Report",
    "Settings",
    "write_report",
]
