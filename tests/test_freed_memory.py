"""Memory that a training frees: kept inside, given back behind it."""

import ctypes
import resource
from pathlib import Path

import pytest

from flows.training.freed_memory import CHOSEN_OUTSIDE, keep_freed_memory

PAGE = resource.getpagesize()
BLOCK_PAGES, NUM_BLOCKS = 7000, 4
NUM_PAGES = NUM_BLOCKS * BLOCK_PAGES
LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p

pytestmark = pytest.mark.skipif(
    not hasattr(LIBC, "mallopt"), reason="this C library has no mallopt"
)


def faults_of_a_step() -> int:
    """Page faults of asking for some blocks, touching all of them, and giving them back."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    num_bytes = ctypes.c_size_t(BLOCK_PAGES * PAGE)
    blocks = [ctypes.c_void_p(LIBC.malloc(num_bytes)) for _ in range(NUM_BLOCKS)]
    for block in blocks:
        LIBC.memset(block, 1, num_bytes)
    for block in blocks:
        LIBC.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident_pages() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])


@pytest.fixture(autouse=True)
def silent_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHOSEN_OUTSIDE:
        monkeypatch.delenv(name, raising=False)


def test_memory_is_paged_in_once_inside_and_leaves_nothing_behind() -> None:
    with keep_freed_memory():
        faults_of_a_step()
        assert faults_of_a_step() < NUM_PAGES // 100
        kept = resident_pages()
    assert resident_pages() < kept - NUM_PAGES // 2


def test_an_error_inside_gives_memory_back_too() -> None:
    kept = 0

    def fail() -> None:
        nonlocal kept
        with keep_freed_memory():
            faults_of_a_step()
            kept = resident_pages()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert resident_pages() < kept - NUM_PAGES // 2


def test_what_the_environment_says_of_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    with keep_freed_memory():
        faults_of_a_step()
        assert faults_of_a_step() >= NUM_PAGES // 2
