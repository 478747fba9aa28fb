"""The commands that read, show, correct and erase data."""

import shlex
import webbrowser
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.catalogue import catalogue
from flows.command.exit_codes import OK
from flows.command.options import (
    AsJson,
    CatalogueFile,
    Deployment,
    DryRun,
    Settings,
    Sources,
    Warehouse,
)
from flows.command.outputs import ExportedQuarantine, RejectedRow, RejectionReason
from flows.command.terminal import loading, print_json, print_table, say
from flows.command.training import run_flow
from flows.environment import source_addresses, warehouse_root
from flows.settings import apply_overrides, checked, setting, signature_of
from pipeline.errors import InputError

if TYPE_CHECKING:
    from flows.ingest import IngestReport

MAX_FILES_SHOWN = 3
MAX_RAW_SHOWN = 60
"""Characters of a rejected row that the table shows; --json has all that was kept."""


def ingest(
    name: Deployment,
    sources: Sources = None,
    settings: Settings = None,
    catalogue_file: CatalogueFile = None,
    warehouse: Warehouse = "",
    as_json: AsJson = False,
) -> int:
    """Check and store the sources of a deployment. Train nothing."""
    with loading("Prefect"):
        from flows.ingest import ingest

        arguments = _ingest_arguments(name, sources, settings, catalogue_file)
    report = run_flow(ingest, {**arguments, "warehouse": warehouse})
    if as_json:
        print_json(report.summary())
    else:
        _print_ingest(report)
    return OK


def _ingest_arguments(
    name: str,
    sources: Sequence[str] | None,
    settings: Sequence[str] | None,
    catalogue_file: Path | None,
) -> dict[str, Any]:
    """Name, sources and records of a deployment, as the command line changes them."""
    from flows.ingest import ingest

    parameters = catalogue(catalogue_file).parameters_of(name)
    overrides = dict(map(setting, settings or ()))
    signature = signature_of(ingest)
    if any(key.partition(".")[0] not in signature.parameters for key in overrides):
        # Settings of a training are checked too, for which torch and MLflow are loaded: seconds.
        from flows.retrain import retrain

        signature = signature_of(retrain)
    else:
        names = [name for name in signature.parameters if name in parameters]
        parameters = {name: parameters[name] for name in names}
    arguments = checked(apply_overrides(parameters, overrides, signature), signature)
    return {
        "name": arguments["name"],
        "sources": source_addresses(sources or arguments["sources"]),
        "records": arguments["records"],
    }


def _print_ingest(report: "IngestReport") -> None:
    rows: list[tuple[str, Any]] = [
        ("snapshot", report.snapshot.id),
        ("rows accepted", report.num_accepted),
        ("rows rejected", report.num_rejected),
        *((f"  {reason}", count) for reason, count in report.rejected_by_reason.items()),
    ]
    for what, count in (
        ("utterances dropped", report.num_dropped_utterances),
        ("rows withdrawn", report.num_withdrawn),
        ("rows corrected", report.num_mended),
        ("comment lines", report.num_comments),
    ):
        if count:
            rows.append((what, count))
    changes = report.changes.model_dump(mode="json")
    changes["renamed"] = [f"{old} -> {new}" for old, new in changes["renamed"].items()]
    for what, addresses in changes.items():
        if addresses:
            rows.append((f"files {what}", f"{len(addresses)}: {_some(addresses)}"))
    print_table(("", ""), [(key, str(value)) for key, value in rows])
    for each in report.remarks:
        say(f"- {each}")


def _some(texts: Sequence[str]) -> str:
    """The first few texts, and how many more there are."""
    more = f" and {n} more" if (n := len(texts) - MAX_FILES_SHOWN) > 0 else ""
    return f"{', '.join(texts[:MAX_FILES_SHOWN])}{more}"


def profile(
    name: Deployment,
    settings: Settings = None,
    snapshot: Annotated[
        str,
        typer.Option(
            metavar="ID",
            help="Beginning of the id of a snapshot. Default: the newest.",
            show_default=False,
        ),
    ] = "",
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser.", show_default=False)
    ] = False,
    catalogue_file: CatalogueFile = None,
    warehouse: Warehouse = "",
    as_json: AsJson = False,
) -> int:
    """Describe a snapshot as a table and a page: lengths, words, scripts, drift."""
    parameters = catalogue(catalogue_file).parameters_of(name)
    overrides = dict(map(setting, settings or ()))
    with loading("Prefect and PyTorch"):
        from flows.prepare.tokens import with_user_dictionary
        from flows.profile import profile, read_profile
        from flows.retrain import retrain
        from pipeline.profile import key_figures, remarks

        signature = signature_of(retrain)
    recipe = checked(apply_overrides(parameters, overrides, signature), signature)
    problem = recipe["problem"]
    text, target_text = with_user_dictionary(
        recipe["text"], recipe["target_text"], recipe["user_dictionary"]
    )
    root = warehouse_root(warehouse)
    made = run_flow(
        profile,
        {
            "name": recipe["name"],
            "kind": recipe["records"].kind,
            "columns": list(problem.columns),
            "texts": list(problem.texts(text, target_text)),
            "splits": recipe["splits"],
            "vocabulary": recipe["vocabulary"],
            "period": getattr(problem, "period", 1),
            "snapshot": snapshot,
            "warehouse": warehouse,
        },
    )
    found = read_profile(root, made.data)
    page = (root / made.page.path).absolute()
    if as_json:
        print_json({"snapshot": made.snapshot.id, "page": str(page), **asdict(found)})
    else:
        print_table(("", ""), list(key_figures(found).items()))
        for each in remarks(found):
            say(f"- {each}")
        say(f"page: {page}")
    if open_page:
        webbrowser.open(page.as_uri())
    return OK


def quarantine(
    name: Deployment,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="With --retry: a file of corrected rows, made with --export.",
            show_default=False,
        ),
    ] = None,
    sources: Sources = None,
    settings: Settings = None,
    samples: Annotated[
        int, typer.Option(metavar="N", help="Number of rows to show for each reason.")
    ] = 3,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the rejected rows to FILE as JSON lines, to be corrected in 'raw'.",
            show_default=False,
        ),
    ] = None,
    retry: Annotated[
        bool,
        typer.Option(
            "--retry",
            help="Ingest again after you corrected the sources or the settings, or add the "
            "corrected rows of FILE.",
            show_default=False,
        ),
    ] = False,
    catalogue_file: CatalogueFile = None,
    warehouse: Warehouse = "",
    as_json: AsJson = False,
) -> int:
    """Show rejected rows by reason, export them, or ingest them again."""
    if samples < 0:
        raise InputError(f"--samples is {samples}: it must be at least 0")
    if retry and export:
        raise InputError("--retry and --export exclude each other: give one of them")
    if file and not retry:
        raise InputError(
            f"the file {file} needs --retry: write tidemill quarantine {name} --retry {file}"
        )
    root = warehouse_root(warehouse)
    with loading("Prefect"):
        from flows.quarantine import export_quarantine, quarantined_rows
        from warehouse.ingests import last_ingest
    if retry:
        return _retry(name, file, sources, settings, catalogue_file, root, as_json)
    if export:
        num_rows = export_quarantine(root, name, export)
        if as_json:
            print_json(asdict(ExportedQuarantine(num_rows, str(export))))
        else:
            say(
                f"Wrote {num_rows} rows to {export}. Correct 'raw' in them, then run "
                f"tidemill quarantine {name} --retry {export}"
            )
        return OK
    by_reason: dict[str, list[RejectedRow]] = {}
    for row in quarantined_rows(root, name):
        raw = row["raw"].decode("utf-8", "backslashreplace")
        by_reason.setdefault(row["reason"], []).append(
            RejectedRow(row["address"], row["line"], row["detail"], raw)
        )
    reasons = [
        RejectionReason(reason, len(found), tuple(found[:samples]))
        for reason, found in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    ]
    if as_json:
        print_json([asdict(each) for each in reasons])
        return OK
    if last_ingest(root, name).refused:
        say(f"{name}: the last ingest was refused")
    if not reasons:
        say(f"{name}: no row was rejected")
        return OK
    cells = [
        (
            *((each.reason, str(each.num_rows)) if not index else ("", "")),
            f"{row.address}:{row.line}",
            row.detail,
            row.raw[:MAX_RAW_SHOWN],
        )
        for each in reasons
        for index, row in enumerate(each.samples)
    ]
    print_table(("reason", "rows", "where", "what is wrong", "begins"), cells, right=("rows",))
    return OK


def _retry(
    name: str,
    file: Path | None,
    sources: Sequence[str] | None,
    settings: Sequence[str] | None,
    catalogue_file: Path | None,
    root: Path,
    as_json: bool,
) -> int:
    from flows.quarantine import retry_quarantine
    from flows.steps.steps import Steps
    from warehouse.ingests import last_ingest

    arguments = _ingest_arguments(name, sources, settings, catalogue_file)
    given = last_ingest(root, arguments["name"]).given
    if given and not sources:
        arguments["sources"] = list(given)
    report = retry_quarantine(Steps(root), **arguments, mended=file)
    if as_json:
        print_json({**report.model_dump(mode="json"), "ingest": report.ingest.summary()})
        return OK
    say(f"{report.num_before} rows were rejected before, {report.num_after} are rejected now")
    for place, detail in report.still_wrong.items():
        say(f"still wrong, {place}: {detail}")
    _print_ingest(report.ingest)
    return OK


def forget(
    name: Deployment,
    match: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="Erase the rows with this text in a field.", show_default=False
        ),
    ] = "",
    lines: Annotated[
        list[str] | None,
        typer.Option(
            "--line",
            metavar="FILE:LINE",
            help="Erase the row that was read from this line, for example talks.jsonl:12. "
            "Repeat the option for several rows.",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRun = False,
    warehouse: Warehouse = "",
    as_json: AsJson = False,
) -> int:
    """Erase withdrawn rows from all stored data.

    The rows leave the tables, the snapshots, the quarantine and every result. No later ingest adds
    them again.
    """
    with loading("the storage"):
        from flows.upkeep.forget import forget

    root = warehouse_root(warehouse)
    report = forget(root, name, match, lines or (), dry_run)
    if as_json:
        print_json(report.model_dump(mode="json"))
        return OK
    would = "would be " if report.dry_run else ""
    where = f" ({_some(report.places)})" if report.places else ""
    say(f"rows {would}forgotten: {report.num_rows}{where}")
    say(f"rejected lines {would}forgotten: {report.num_rejected}")
    say(
        f"snapshots that {'could no longer' if would else 'can no longer'} be read: "
        f"{', '.join(each[:12] for each in report.snapshots) or 'none'}"
    )
    for each in report.not_searched:
        say(f"- {each}")
    for each, head in report.heads.items():
        say(f"{each} is now {head}")
    say(f"files and results {would}removed: {report.num_files} and {report.num_results}")
    if report.versions:
        say(
            f"Trained on these rows, and not changed: {', '.join(report.versions)}. MLflow also "
            f"keeps their samples of these rows. Retrain, then delete these versions if the owner "
            f"of the rows asks for it:"
        )
        for version, command in sorted(report.versions.items()):
            say(f"  {version}: {command}")
        say(f"then: tidemill gc --days 0 --warehouse {shlex.quote(str(root))}")
    return OK
