"""What came out of finished runs, to look at: records, figures and the report."""

from restore_vlm.figures.records import Record, read_records

__all__ = ["Record", "read_records"]
