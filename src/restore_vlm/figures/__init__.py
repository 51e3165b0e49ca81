"""What came out of finished runs, to look at: records, and figures of them.

>>> from restore_vlm.figures import NAMES
>>> NAMES[0]
'true-class'
"""

from restore_vlm.figures.figure import Figure, Numbers, Panel
from restore_vlm.figures.records import Record, read_records
from restore_vlm.figures.registry import NAMES, draw, redraw, write

__all__ = ["NAMES", "Figure", "Numbers", "Panel", "Record", "draw", "read_records", "redraw", "write"]
