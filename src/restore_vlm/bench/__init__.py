"""Grids of runs over datasets, methods and seeds: planned, executed, tabulated."""

from restore_vlm.bench.compare import MethodComparison, compare_methods
from restore_vlm.bench.datasets import DataRoot
from restore_vlm.bench.engines import Local, Ray, inline
from restore_vlm.bench.grid import GridProgress, outlook, run_grid
from restore_vlm.bench.plan import Plan, Request, make_plan
from restore_vlm.bench.render import render
from restore_vlm.bench.scores import Results
from restore_vlm.bench.store import Store
from restore_vlm.bench.tables import Table, tables

__all__ = [
    "DataRoot",
    "GridProgress",
    "Local",
    "MethodComparison",
    "Plan",
    "Ray",
    "Request",
    "Results",
    "Store",
    "Table",
    "compare_methods",
    "inline",
    "make_plan",
    "outlook",
    "render",
    "run_grid",
    "tables",
]
