"""The lock of a cache key. It ends with its process, so a killed run never blocks the next one."""

import fcntl
import os
import threading
import time
from pathlib import Path
from typing import Any

import anyio.to_thread
from prefect.locking.protocol import LockManager

KEY_VERSION = 1
"""A lock changes no result."""


class ProcessLocks(LockManager):
    """One lock file a key, locked by the kernel on behalf of the process: kill -9 frees it.

    A holder deletes its file before it lets go, so the folder holds the locks of running tasks
    only. Prefect copies and compares its policies, and with them this object: a copy is the object
    itself.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[str, tuple[str, int]] = {}
        self._guard = threading.Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> "ProcessLocks":
        return self

    def acquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """Wait for the lock of ``key``; False if ``acquire_timeout`` seconds pass first."""
        if self.is_lock_holder(key, holder):
            return True
        descriptor = self._open_locked(key, acquire_timeout)
        if descriptor is None:
            return False
        with self._guard:
            self._held[key] = (holder, descriptor)
        return True

    async def aacquire_lock(
        self,
        key: str,
        holder: str,
        acquire_timeout: float | None = None,
        hold_timeout: float | None = None,
    ) -> bool:
        """As ``acquire_lock``, without blocking the event loop."""
        return await anyio.to_thread.run_sync(self.acquire_lock, key, holder, acquire_timeout)

    def release_lock(self, key: str, holder: str) -> None:
        """Free the lock; ValueError if ``holder`` does not hold it."""
        with self._guard:
            held_by, descriptor = self._held.get(key, ("", -1))
            if held_by != holder:
                raise ValueError(f"{holder} holds no lock for {key}")
            del self._held[key]
        self._path(key).unlink(missing_ok=True)
        os.close(descriptor)

    def is_locked(self, key: str) -> bool:
        """Whether any process holds the lock."""
        descriptor = self._open_locked(key, timeout=0)
        if descriptor is None:
            return True
        self._path(key).unlink(missing_ok=True)
        os.close(descriptor)
        return False

    def is_lock_holder(self, key: str, holder: str) -> bool:
        """Whether ``holder``, in this process, holds the lock."""
        with self._guard:
            return self._held.get(key, ("", -1))[0] == holder

    def wait_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """Wait until the lock is free; False if ``timeout`` seconds pass first."""
        descriptor = self._open_locked(key, timeout)
        if descriptor is None:
            return False
        self._path(key).unlink(missing_ok=True)
        os.close(descriptor)
        return True

    async def await_for_lock(self, key: str, timeout: float | None = None) -> bool:
        """As ``wait_for_lock``, without blocking the event loop."""
        return await anyio.to_thread.run_sync(self.wait_for_lock, key, timeout)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key.replace('/', '.')}.lock"

    def _open_locked(self, key: str, timeout: float | None) -> int | None:
        """A descriptor of the lock file with the lock on it, or None after ``timeout`` seconds."""
        path = self._path(key)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                if deadline is None:
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
                elif not _flock_until(descriptor, deadline):
                    os.close(descriptor)
                    return None
                # The holder before us may have deleted the file that we waited on.
                if _is_file_at(path, descriptor):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)


def _flock_until(descriptor: int, deadline: float) -> bool:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)


def _is_file_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
