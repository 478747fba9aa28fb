"""The place on the GPU that a Prefect server hands out."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext


class GpuPlace:
    """The one place on the GPU, where a Prefect server hands them out (limit ``gpu``).

    Trainings side by side share the place of their retraining, which takes it for all of them.
    """

    def __init__(self, wanted: bool) -> None:
        self.free = wanted

    @contextmanager
    def taken(self, wanted: bool = True) -> Iterator[None]:
        """Inside, the place is this retraining's; who is inside already has it."""
        if not (wanted and self.free) or FlowRunContext.get() is None:
            yield
            return
        with concurrency("gpu", occupy=1, raise_on_lease_renewal_failure=False):
            self.free = False
            try:
                yield
            finally:
                self.free = True
