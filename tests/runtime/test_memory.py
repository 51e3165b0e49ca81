"""The allocator of the host process is as it was once training is over."""

import subprocess
import sys

import pytest

CODE = """
import resource, torch
from restore_vlm.runtime.memory import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(4 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
with freed_memory_kept():
    faults()
    kept = faults()
print(first, kept, faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_pages_are_kept_inside_and_given_back_after() -> None:
    """20 times 16 MB: some 4,000 fresh pages each, unless freed ones were kept."""
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    first, kept, after = map(int, run.stdout.split())
    assert kept < first / 10
    assert after > first / 10
