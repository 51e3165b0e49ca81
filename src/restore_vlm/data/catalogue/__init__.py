"""The benchmark's 15 datasets in the layout that CoOp's users have on disk."""

from restore_vlm.data.catalogue.checking import Checked, check_dataset
from restore_vlm.data.catalogue.entries import DATASETS, Counts, Download, Entry, dataset_entry, recognise
from restore_vlm.data.catalogue.fetch import fetch
from restore_vlm.data.catalogue.loading import Found, find, load_catalogued, load_entry

__all__ = [
    "DATASETS",
    "Checked",
    "Counts",
    "Download",
    "Entry",
    "Found",
    "check_dataset",
    "dataset_entry",
    "fetch",
    "find",
    "load_catalogued",
    "load_entry",
    "recognise",
]
