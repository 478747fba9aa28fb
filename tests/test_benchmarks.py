"""The benchmark of a GPU walks through everything that needs none."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_rehearsal_of_the_gpu_benchmark_is_right_and_whole() -> None:
    command = [sys.executable, "benchmarks/gpu.py", "--device", "cpu", "--tiny"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert not [line for line in table if "failed:" in line or "WRONG" in line or "not run" in line]
    assert sum("right:" in line for line in table) == 5
    assert sum("skipped:" in line for line in table) == 6
