"""Bring a Prefect server into the state that the catalogue describes; as often as one likes."""

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import FlowFilter, FlowFilterName
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker

from flows.catalogue import FILE, Catalogue
from flows.settings import checked, signature_of
from pipeline.errors import InputError

WORK_POOL = "tidemill"

GPU_LIMIT = "gpu"
"""The global limit that a training holds on a GPU, or a retraining for all that it trains side by
side: one at a time, over all runs of a server."""


def deploy(catalogue: Catalogue, tell: Callable[[str], None]) -> None:
    """Make the work pool and the GPU limit, deploy every run, drop schedules that left the file.

    Everything is checked before anything is changed. The runs will work in the directory of the
    catalogue, or in the current one where the catalogue is the packaged copy.

    Raises InputError where the server does not answer, or refuses, or a parameter is wrong.
    """
    address = server_address()
    if address is None:
        raise InputError(
            "no Prefect server is configured: run prefect server start, then set PREFECT_API_URL, "
            "for example to http://127.0.0.1:4200/api"
        )
    from flows.retrain import retrain

    for name in catalogue.deployments:
        checked(catalogue.parameters_of(name), signature_of(retrain))
    with get_client(sync_client=True) as client:
        _make_work_pool(client)
        client.upsert_global_concurrency_limit_by_name(GPU_LIMIT, 1)
        tell(f"work pool {WORK_POOL} and limit {GPU_LIMIT} are there")
        _deploy_all(catalogue)
        tell(f"deployed {', '.join(catalogue.deployments)} to {address}")
        for dropped in _drop_schedules(client, catalogue):
            tell(f"dropped the schedule {dropped}, which left {catalogue.path.name}")
    tell(f"start a worker: prefect worker start --pool {WORK_POOL}")


def server_address() -> str | None:
    """The Prefect server that records runs, None where none is configured.

    Raises InputError where one is, and it does not answer within 5 seconds.
    """
    address = PREFECT_API_URL.value()
    if not address:
        return None
    remedy = "start it (prefect server start) or unset PREFECT_API_URL"
    if not address.startswith(("http://", "https://")):
        raise InputError(f"PREFECT_API_URL is {address}, which is no http address: {remedy}")
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=5):  # noqa: S310
            return str(address)
    except (OSError, urllib.error.URLError) as error:
        raise InputError(
            f"the Prefect server {address} does not answer ({error}): {remedy}"
        ) from error


def _make_work_pool(client: SyncPrefectClient) -> None:
    try:
        found = client.read_work_pool(WORK_POOL)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(
            WorkPoolCreate(name=WORK_POOL, type="process", base_job_template=template)
        )
    else:
        if found.type != "process":
            raise InputError(
                f"the work pool {WORK_POOL} is of type {found.type}: delete it "
                f"(prefect work-pool delete {WORK_POOL}) and deploy again"
            )


def _deploy_all(catalogue: Catalogue) -> None:
    packaged = catalogue.path.parent == Path(__file__).parents[1]
    path = catalogue.path.absolute()
    command = [
        *(sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"),
        *("--prefect-file", str(path if packaged else FILE if path.name == FILE else path)),
    ]
    result = subprocess.run(
        command,
        cwd=None if packaged else path.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        output = " ".join((result.stderr + result.stdout).split())
        raise InputError(f"prefect deploy refused {path}: {output[-1000:]}")


def _drop_schedules(client: SyncPrefectClient, catalogue: Catalogue) -> list[str]:
    """Schedules with a slug that the file no longer has; those without were made by hand."""
    flows = sorted({deployment.flow for deployment in catalogue.deployments.values()})
    dropped = []
    for found in client.read_deployments(flow_filter=FlowFilter(name=FlowFilterName(any_=flows))):
        if found.work_pool_name != WORK_POOL:
            continue
        known = catalogue.deployments.get(found.name)
        slugs = known.slugs if known else ()
        for schedule in found.schedules:
            if schedule.slug and schedule.slug not in slugs:
                assert isinstance(schedule.id, UUID)
                client.delete_deployment_schedule(found.id, schedule.id)
                dropped.append(f"{schedule.slug} of {found.name}")
    return dropped
