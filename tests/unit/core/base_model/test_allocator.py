import subprocess
import sys

# In a process of its own: the allocator's ways are those of the whole process.
PROGRAM = """
import resource, torch
from core.base_model.allocator import keep_freed_memory, return_freed_memory

def faults(turns=20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(turns):
        torch.empty(16 * 1024 * 1024).fill_(1.0)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
keep_freed_memory()
faults()  # The heap grows to what is needed.
kept = faults()
return_freed_memory()
print(first, kept)
"""


def test_memory_that_is_kept_is_not_faulted_in_again() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    first, kept = map(int, done.stdout.split())
    assert kept < first / 10
