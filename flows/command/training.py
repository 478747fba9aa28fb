"""The command that trains, and how every command runs a flow."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.catalogue import catalogue
from flows.command.exit_codes import OK
from flows.command.options import (
    AsJson,
    CatalogueFile,
    Deployment,
    Settings,
    Sources,
    Warehouse,
    words,
)
from flows.command.terminal import loading, print_json
from flows.settings import apply_overrides, checked, setting, signature_of

if TYPE_CHECKING:
    from prefect import Flow


def retrain(
    name: Deployment,
    sources: Sources = None,
    settings: Settings = None,
    variants: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Train these variants instead of the deployment's, for example lstm,gru-2,bilstm.",
            show_default=False,
        ),
    ] = None,
    snapshot: Annotated[
        str,
        typer.Option(
            metavar="ID",
            help="Train on this snapshot and read no source. Give the beginning of its id, which "
            "the leaderboard shows for every version.",
            show_default=False,
        ),
    ] = "",
    extend_from: Annotated[
        str,
        typer.Option(
            metavar="VERSION",
            help="Continue training from this version: its number, or champion. Known words keep "
            "their ids and weights; new words are added after them.",
            show_default=False,
        ),
    ] = "",
    split: Annotated[
        str,
        typer.Option(
            metavar="hash|chronological",
            autocompletion=words("hash", "chronological"),
            help="How to choose validation and test rows: hash keeps every row in its split; "
            "chronological holds out the last rows. Default: as in the deployment.",
            show_default=False,
        ),
    ] = "",
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|cuda",
            autocompletion=words("auto", "cpu", "cuda"),
            help="Device that trains. cuda is a GPU; auto uses a GPU where there is one. "
            "Default: as in the deployment, else auto.",
            show_default=False,
        ),
    ] = "",
    parallel: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of variants to train in parallel, each in its own process. "
            "Default: as in the deployment, else 1.",
            show_default=False,
        ),
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            metavar="auto|never",
            autocompletion=words("auto", "never"),
            help="auto resumes an interrupted training; never starts it again. Default: auto.",
            show_default=False,
        ),
    ] = "",
    catalogue_file: CatalogueFile = None,
    warehouse: Warehouse = "",
    as_json: AsJson = False,
) -> int:
    """Train and compare the variants of a deployment, and register new versions.

    Only changed steps run again. The command runs in this process; with PREFECT_API_URL set, the
    Prefect server records the run.
    """
    parameters = catalogue(catalogue_file).parameters_of(name)
    given = {
        "sources": sources,
        "variants": None if variants is None else [each.strip() for each in variants.split(",")],
        "device": device or None,
        "parallel": parallel,
        "resume": resume or None,
        "warehouse": warehouse or None,
        "snapshot": snapshot or None,
        "extend_from": extend_from or None,
    }
    parameters |= {key: value for key, value in given.items() if value is not None}
    overrides = dict(map(setting, settings or ()))
    if split:
        overrides["splits.by"] = split
    with loading("Prefect, MLflow and PyTorch"):
        from flows.command.models import open_registry, print_leaderboard
        from flows.retrain import retrain

        signature = signature_of(retrain)
    arguments = checked(apply_overrides(parameters, overrides, signature), signature)
    report = run_flow(retrain, arguments)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        print_leaderboard(open_registry(arguments["warehouse"]), report.name, report.reason)
    return OK


def run_flow(flow: "Flow[..., Any]", arguments: Mapping[str, Any]) -> Any:
    """The result of a flow, run in this process.

    Where PREFECT_API_URL (or the active profile) names a server, that server records the run.
    Where none is named, Prefect would start a server of its own for 8 to 10 seconds and drop most
    of its records; so the flow's function is called directly, and ``Steps`` keeps the same results
    under the same keys.
    """
    from flows.command.deploy import server_address

    run: Callable[..., Any] = flow if server_address() else flow.fn
    return run(**arguments)
