"""The arguments and options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer


def deployment_names(incomplete: str) -> list[tuple[str, str]]:
    """The deployments that complete a word on the command line, each with its description."""
    from flows.catalogue import catalogue
    from pipeline.errors import InputError

    try:
        found = catalogue().deployments.values()
    except InputError:  # a shell that completes a word has no place for a message
        return []
    return [(each.name, each.description) for each in found if each.name.startswith(incomplete)]


def words(*valid: str) -> Callable[[str], list[str]]:
    """A completion of an option that takes one of a few words."""
    return lambda incomplete: [word for word in valid if word.startswith(incomplete)]


Deployment = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Name of a deployment in prefect.yaml, for example demo.",
        autocompletion=deployment_names,
        show_default=False,
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="Name of a registered model, for example demo.",
        autocompletion=deployment_names,
        show_default=False,
    ),
]
Warehouse = Annotated[
    str,
    typer.Option(
        metavar="DIR",
        help="Folder that stores everything. Default: $TIDEMILL_WAREHOUSE, or .warehouse.",
        show_default=False,
    ),
]
CatalogueFile = Annotated[
    Path | None,
    typer.Option(
        "--catalogue",
        metavar="FILE",
        help="Read the deployments from this file instead of prefect.yaml.",
        show_default=False,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print JSON on stdout. 'tidemill schema' prints its schema.",
        show_default=False,
    ),
]
Sources = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        metavar="PATH",
        help="Read this source instead of the deployment's sources: a file, a folder, a pattern, "
        "an address such as hf://..., or sample:NAME. Repeat the option for several sources.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one setting of the deployment, for example training.num_epochs=5. "
        "Repeat the option for several settings.",
        show_default=False,
    ),
]
Version = Annotated[
    str,
    typer.Option(
        metavar="NUMBER",
        help="Number of the version, as the leaderboard shows it. Default: the champion.",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Show what would be removed. Remove nothing.",
        show_default=False,
    ),
]
