"""The commands that check and clean the warehouse."""

from typing import Annotated

import typer

from flows.command.exit_codes import FAILED, OK
from flows.command.options import AsJson, Deployment, DryRun, Warehouse
from flows.command.terminal import loading, print_json, print_table, say
from flows.environment import warehouse_root


def verify(warehouse: Warehouse = "", as_json: AsJson = False) -> int:
    """Read all stored files and compare their checksums.

    The exit code is 1 where a file is damaged.
    """
    with loading("the storage"):
        from flows.upkeep.verify import verify

    root = warehouse_root(warehouse)
    faults = verify(root)
    if as_json:
        print_json([fault.model_dump(mode="json") for fault in faults])
    elif faults:
        print_table(("damaged", "what is wrong"), [(each.path, each.problem) for each in faults])
    else:
        say(f"{root}: all checksums match")
    return FAILED if faults else OK


def gc(
    days: Annotated[
        float,
        typer.Option(
            metavar="DAYS",
            help="Keep results, older snapshots and unfinished trainings for this many days.",
        ),
    ] = 30.0,
    dry_run: DryRun = False,
    warehouse: Warehouse = "",
    as_json: AsJson = False,
) -> int:
    """Remove files that no snapshot, result or registered version needs."""
    with loading("the storage"):
        from flows.upkeep.garbage import collect_garbage

    report = collect_garbage(warehouse_root(warehouse), days, dry_run)
    if as_json:
        print_json(report.model_dump(mode="json"))
        return OK
    counts = {
        key.removeprefix("num_"): value
        for key, value in report.model_dump().items()
        if key.startswith("num_") and key != "num_bytes" and value
    }
    what = ", ".join(f"{value} {key}" for key, value in counts.items()) or "nothing"
    say(f"{'would remove' if report.dry_run else 'removed'} {what}: {report.num_bytes:,} bytes")
    return OK


def compact(name: Deployment, warehouse: Warehouse = "", as_json: AsJson = False) -> int:
    """Merge the small tables of a snapshot into few."""
    with loading("the storage"):
        from flows.upkeep.compact import compact

    report = compact(warehouse_root(warehouse), name)
    if as_json:
        print_json(report.model_dump(mode="json"))
    elif report.num_after == report.num_before:
        say(f"nothing to merge: snapshot {report.snapshot.id} stays as it is")
    else:
        say(f"{report.num_before} tables became {report.num_after}: {report.snapshot.id}")
    return OK
