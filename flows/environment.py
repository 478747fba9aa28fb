"""What the environment says: the only reader of environment variables."""

import os
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import InputError, choose_from

SAMPLES = Path(__file__).parent / "sample"

DEFAULT_WAREHOUSE = ".warehouse"


def warehouse_root(warehouse: str = "") -> Path:
    """Where everything is kept: the argument, else TIDEMILL_WAREHOUSE, else ``.warehouse`` here.

    The one place that reads the variable. Raises InputError for an address that is not a folder of
    this machine.
    """
    address = warehouse or os.environ.get("TIDEMILL_WAREHOUSE") or DEFAULT_WAREHOUSE
    if "://" in address:
        raise InputError(f"the warehouse {address} is no local folder: give a path")
    return Path(address).expanduser().absolute()


def tracking_uri() -> str | None:
    """The MLflow server of MLFLOW_TRACKING_URI that keeps the registry, None for the warehouse.

    An address that is no server's counts as none: MLflow itself writes the database in use there.
    """
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    return address if address.startswith(("http://", "https://")) else None


def source_addresses(sources: Sequence[str]) -> list[str]:
    """The sources with ``sample:NAME`` replaced by the path of the packaged file of that name.

    Raises InputError for an unknown sample, listing the known ones.
    """
    samples = {path.name.partition(".")[0]: path for path in sorted(SAMPLES.glob("*.jsonl*"))}
    addresses = []
    for source in sources:
        scheme, _, name = source.partition(":")
        if scheme != "sample":
            addresses.append(source)
        elif name in samples:
            addresses.append(str(samples[name]))
        else:
            choices = choose_from(source, [f"sample:{known}" for known in samples])
            raise InputError(f"there is no {source}: {choices}")
    return addresses
