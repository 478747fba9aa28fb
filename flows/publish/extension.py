"""Which version a retraining goes on learning from."""

import json
from dataclasses import dataclass
from pathlib import Path

from flows.prepare.splits import RehearsalReport
from flows.publish.version import checkpoint_of
from flows.recipe import AnyProblem, Recipe
from pipeline.errors import InputError, NothingYetError, choose_from
from pipeline.prediction import read_config
from warehouse.checkpoints import CheckpointRef, Checkpoints
from warehouse.registry.registry import Registry


@dataclass(frozen=True)
class Start:
    """The version to go on learning from."""

    version: int
    snapshot: str
    checkpoint: CheckpointRef

    def line(self, rehearsal: RehearsalReport | None) -> str:
        """Say what a version that goes on from this one was trained on, for its page."""
        line = f"continues version {self.version}"
        if rehearsal is None:
            return line
        return (
            f"{line}, with {rehearsal.num_new} new training rows and {rehearsal.num_rehearsed} of "
            f"its {rehearsal.num_known} old ones"
        )


def check_extension(problem: AnyProblem, extend_from: str, rehearsal: float, vectors: str) -> None:
    """Refuse settings that do not go together with the version to extend.

    Raises:
        InputError: with the remedy.
    """
    if not 0 <= rehearsal <= 1:
        raise InputError(f"rehearsal is {rehearsal}: it must be from 0 (none) to 1 (all)")
    if rehearsal < 1 and not extend_from:
        raise InputError(
            "rehearsal is a share of the rows that a version was trained on: set extend_from, or "
            "leave rehearsal at 1"
        )
    if rehearsal < 1 and not problem.columns:
        raise InputError("a series is learnt as a whole: leave rehearsal at 1")
    if vectors and extend_from:
        raise InputError("a version that is extended has its own word vectors: leave out vectors")


def version_to_extend(
    root: Path, registry: Registry, name: str, which: str, recipe: Recipe
) -> Start:
    """Return the version ``which`` (``champion``, or a number) to go on learning from.

    Raises:
        InputError: there is no such version, or what shall be trained is another model.
    """
    known = {str(version.version): version for version in registry.versions(name)}
    version = registry.champion(name) if which == "champion" else known.get(which)
    if version is None:
        wanted_version = "champion" if which == "champion" else f"version {which}"
        if not known:
            raise NothingYetError(
                f"{name} has no {wanted_version} to extend, since it has no versions yet: run "
                f"tidemill retrain {name} without extend_from first"
            )
        choices = choose_from(which, ["champion", *sorted(known, key=int)])
        raise InputError(f"{name} has no {wanted_version} to extend: {choices}")
    checkpoint = checkpoint_of(version, root, registry)
    # A setting that is younger than the version has its default there.
    there = read_config(Checkpoints(root).load(checkpoint).config).to_dict()
    for variant in recipe.variants:
        wanted = recipe.model_config(variant).to_dict()
        for part in ("problem", "variant", "network", "text", "target_text"):
            # As JSON, since a configuration that was kept has lists in place of tuples.
            here, then = (json.dumps(each.get(part)) for each in (wanted, there))
            if here != then:
                raise InputError(
                    f"version {version.version} of {name} cannot be extended: its {part} is "
                    f"{then}, and {here} is asked for"
                )
    return Start(version.version, version.tags["snapshot"], checkpoint)
