"""What each command of ``tidemill`` does: read its arguments, call, print; the exit code."""

import argparse
import json
import os
import shlex
import socket
import subprocess
import sys
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.command.catalogue import catalogue
from flows.command.terminal import (
    finite,
    print_json,
    print_table,
    printable_json,
    say,
    short_number,
)
from flows.environment import source_addresses, tracking_uri, warehouse_root
from flows.recipe import apply_overrides, checked, setting, signature_of
from pipeline.errors import InputError

if TYPE_CHECKING:
    from prefect import Flow

    from flows.ingest import IngestReport
    from warehouse.registry.registry import Registry
    from warehouse.registry.versions import VersionInfo

OK, FAILED = 0, 1

MAX_FILES_SHOWN = 3

MAX_RAW_SHOWN = 60
"""Characters of a rejected row that the table shows; --json has all that was kept."""


def retrain(parsed: argparse.Namespace) -> int:
    """Train and compare the variants of a deployment."""
    parameters = catalogue(parsed.catalogue).parameters_of(parsed.name)
    if parsed.source:
        parameters["sources"] = parsed.source
    if parsed.variants is not None:
        parameters["variants"] = [each.strip() for each in parsed.variants.split(",")]
    if parsed.device:
        parameters["device"] = parsed.device
    if parsed.parallel is not None:
        parameters["parallel"] = parsed.parallel
    if parsed.resume:
        parameters["resume"] = parsed.resume
    if parsed.warehouse:
        parameters["warehouse"] = parsed.warehouse
    overrides = dict(setting(each) for each in parsed.set)
    if parsed.snapshot:
        parameters["snapshot"] = parsed.snapshot
    if parsed.extend_from:
        parameters["extend_from"] = parsed.extend_from
    if parsed.split:
        overrides["splits.by"] = parsed.split
    from flows.retrain import retrain

    signature = signature_of(retrain)
    arguments = checked(apply_overrides(parameters, overrides, signature), signature)
    report = _run(retrain, arguments)
    if parsed.json:
        print_json(report.model_dump(mode="json"))
    else:
        _print_leaderboard(_registry(parsed), report.name, report.reason)
    return OK


def ingest(parsed: argparse.Namespace) -> int:
    """Check and store sources; train nothing."""
    from flows.ingest import ingest

    arguments = _ingest_arguments(parsed)
    report = _run(ingest, {**arguments, "warehouse": parsed.warehouse})
    if parsed.json:
        print_json(report.model_dump(mode="json"))
    else:
        _print_ingest(report)
    return OK


def _ingest_arguments(parsed: argparse.Namespace) -> dict[str, Any]:
    """Name, sources and records of a deployment, as the command line changes them."""
    from flows.ingest import ingest

    parameters = catalogue(parsed.catalogue).parameters_of(parsed.name)
    overrides = dict(setting(each) for each in parsed.set)
    signature = signature_of(ingest)
    if any(key.partition(".")[0] not in signature.parameters for key in overrides):
        # Settings of a training are looked at too, for which torch and MLflow are loaded: seconds.
        from flows.retrain import retrain

        signature = signature_of(retrain)
    else:
        names = [name for name in signature.parameters if name in parameters]
        parameters = {name: parameters[name] for name in names}
    arguments = checked(apply_overrides(parameters, overrides, signature), signature)
    return {
        "name": arguments["name"],
        "sources": source_addresses(parsed.source or arguments["sources"]),
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
        ("rows mended", report.num_mended),
    ):
        if count:
            rows.append((what, count))
    changes = report.changes.model_dump(mode="json")
    changes["renamed"] = [f"{old} -> {new}" for old, new in changes["renamed"].items()]
    for what, addresses in changes.items():
        shown = ", ".join(addresses[:MAX_FILES_SHOWN])
        more = f" and {n} more" if (n := len(addresses) - MAX_FILES_SHOWN) > 0 else ""
        if addresses:
            rows.append((f"files {what}", f"{len(addresses)}: {shown}{more}"))
    print_table(("", ""), [(key, str(value)) for key, value in rows])
    for each in report.remarks:
        say(f"- {each}")


def profile(parsed: argparse.Namespace) -> int:
    """What a snapshot holds."""
    from flows.prepare.tokens import with_user_dictionary
    from flows.profile import profile, read_profile
    from flows.retrain import retrain
    from pipeline.profile import key_figures, remarks

    signature = signature_of(retrain)
    parameters = catalogue(parsed.catalogue).parameters_of(parsed.name)
    recipe = checked(apply_overrides(parameters, {}, signature), signature)
    problem = recipe["problem"]
    text, target_text = with_user_dictionary(
        recipe["text"], recipe["target_text"], recipe["user_dictionary"]
    )
    root = warehouse_root(parsed.warehouse)
    made = _run(
        profile,
        {
            "name": recipe["name"],
            "kind": recipe["records"].kind,
            "columns": list(problem.columns),
            "texts": list(problem.texts(text, target_text)),
            "splits": recipe["splits"],
            "vocabulary": recipe["vocabulary"],
            "period": getattr(problem, "period", 1),
            "snapshot": parsed.snapshot,
            "warehouse": parsed.warehouse,
        },
    )
    found = read_profile(root, made.data)
    page = (root / made.page.path).absolute()
    if parsed.json:
        print_json({"snapshot": made.snapshot.id, "page": str(page), **asdict(found)})
    else:
        print_table(("", ""), list(key_figures(found).items()))
        for each in remarks(found):
            say(f"- {each}")
        say(f"page: {page}")
    if parsed.open:
        webbrowser.open(page.as_uri())
    return OK


def quarantine(parsed: argparse.Namespace) -> int:
    """Rejected rows: counted, shown, exported, or tried again."""
    from flows.quarantine import export_quarantine, quarantined_rows
    from warehouse.ingests import last_ingest

    if parsed.samples < 0:
        raise InputError(f"--samples is {parsed.samples}: it must be at least 0")
    root = warehouse_root(parsed.warehouse)
    if parsed.retry is not None:
        return _retry(parsed, root)
    if parsed.export:
        num_rows = export_quarantine(root, parsed.name, parsed.export)
        say(
            f"wrote {num_rows} rows to {parsed.export}: correct their raw, then run "
            f"tidemill quarantine {parsed.name} --retry {parsed.export}"
        )
        return OK
    rows = quarantined_rows(root, parsed.name)
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_reason.setdefault(row["reason"], []).append(
            {
                "address": row["address"],
                "line": row["line"],
                "detail": row["detail"],
                "raw": row["raw"].decode("utf-8", "backslashreplace"),
            }
        )
    reasons = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    refused = last_ingest(root, parsed.name).refused
    if parsed.json:
        print_json(
            [
                {"reason": reason, "num_rows": len(found), "samples": found[: parsed.samples]}
                for reason, found in reasons
            ]
        )
        return OK
    if refused:
        say(f"{parsed.name}: the last ingest was refused")
    if not rows:
        say(f"{parsed.name}: no row was rejected")
        return OK
    cells = [
        (
            *((reason, str(len(found))) if not index else ("", "")),
            f"{row['address']}:{row['line']}",
            row["detail"],
            row["raw"][:MAX_RAW_SHOWN],
        )
        for reason, found in reasons
        for index, row in enumerate(found[: parsed.samples])
    ]
    print_table(("reason", "rows", "where", "what is wrong", "begins"), cells, right=("rows",))
    return OK


def _retry(parsed: argparse.Namespace, root: Path) -> int:
    from flows.quarantine import retry_quarantine
    from flows.steps.steps import Steps
    from warehouse.ingests import last_ingest

    arguments = _ingest_arguments(parsed)
    given = last_ingest(root, arguments["name"]).given
    if given and not parsed.source:
        arguments["sources"] = list(given)
    mended = parsed.retry if parsed.retry != Path() else None
    report = retry_quarantine(Steps(root), **arguments, mended=mended)
    if parsed.json:
        print_json(report.model_dump(mode="json"))
        return OK
    say(f"{report.num_before} rows were rejected before, {report.num_after} are now")
    for place, detail in report.still_wrong.items():
        say(f"still wrong, {place}: {detail}")
    _print_ingest(report.ingest)
    return OK


def forget(parsed: argparse.Namespace) -> int:
    """Take rows that their owner withdraws out of everything that is kept."""
    from flows.upkeep.forget import forget

    root = warehouse_root(parsed.warehouse)
    report = forget(root, parsed.name, parsed.match, parsed.line, parsed.dry_run)
    if parsed.json:
        print_json(report.model_dump(mode="json"))
        return OK
    would = "would be " if report.dry_run else ""
    shown = ", ".join(report.places[:MAX_FILES_SHOWN])
    more = f" and {n} more" if (n := len(report.places) - MAX_FILES_SHOWN) > 0 else ""
    where = f" ({shown}{more})" if shown else ""
    say(f"rows {would}forgotten: {report.num_rows}{where}")
    say(f"rejected lines {would}forgotten: {report.num_rejected}")
    say(
        f"snapshots that can{' no longer' if not would else 'not'} be read: "
        f"{', '.join(each[:12] for each in report.snapshots) or 'none'}"
    )
    for each in report.not_searched:
        say(f"- {each}")
    for name, head in report.heads.items():
        say(f"{name} is now {head}")
    say(f"files and results {would}removed: {report.num_files} and {report.num_results}")
    if report.versions:
        say(
            f"trained on these rows, and not changed, nor the samples that MLflow shows of them: "
            f"{', '.join(report.versions)}; retrain, then delete them if their owner wishes so:"
        )
        for version, command in sorted(report.versions.items()):
            say(f"  {version}: {command}")
        say(f"then: tidemill gc --days 0 --warehouse {shlex.quote(str(root))}")
    return OK


def verify(parsed: argparse.Namespace) -> int:
    """Rehash everything; a finding is exit code 1."""
    from flows.upkeep.verify import verify

    root = warehouse_root(parsed.warehouse)
    faults = verify(root)
    if parsed.json:
        print_json([fault.model_dump(mode="json") for fault in faults])
    elif faults:
        print_table(("damaged", "what is wrong"), [(each.path, each.problem) for each in faults])
    else:
        say(f"{root}: everything is what its name says")
    return FAILED if faults else OK


def gc(parsed: argparse.Namespace) -> int:
    """Remove what nobody needs any more."""
    from flows.upkeep.garbage import collect_garbage

    report = collect_garbage(warehouse_root(parsed.warehouse), parsed.days, parsed.dry_run)
    if parsed.json:
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


def compact(parsed: argparse.Namespace) -> int:
    """Merge many small tables into few."""
    from flows.upkeep.compact import compact

    report = compact(warehouse_root(parsed.warehouse), parsed.name)
    if parsed.json:
        print_json(report.model_dump(mode="json"))
    elif report.num_after == report.num_before:
        say(f"nothing to merge: snapshot {report.snapshot.id} stays as it is")
    else:
        say(f"{report.num_before} tables became {report.num_after}: {report.snapshot.id}")
    return OK


def leaderboard(parsed: argparse.Namespace) -> int:
    """All versions of a model and their scores."""
    registry = _registry(parsed)
    rows = _leaderboard_rows(registry, parsed.name)
    if not rows:
        known = f"there are {', '.join(names)}" if (names := registry.names()) else ""
        raise InputError(
            f"there is no registered model {parsed.name!r}: "
            f"{known or f'run tidemill retrain {parsed.name}'}"
        )
    if parsed.json:
        print_json(rows)
    else:
        _print_leaderboard(registry, parsed.name)
    return OK


def predict(parsed: argparse.Namespace) -> int:
    """Answers of a version, to texts or to the lines of a file."""
    if bool(parsed.texts) == bool(parsed.input):
        raise InputError("give texts to predict from, or a file of them with --input")
    if bool(parsed.input) != bool(parsed.output):
        raise InputError("--input and --output belong together")
    from flows.command.answers import check_files, predict_file, predict_texts

    if parsed.input:
        check_files(parsed.input, parsed.output)
    registry = _registry(parsed)
    model = registry.load(parsed.name, version=parsed.version, variant=parsed.variant)
    parameters = dict(map(setting, parsed.set))
    if parsed.top is not None:
        parameters["top"] = parsed.top
    if parsed.input:
        num_texts = predict_file(model, parsed.input, parsed.output, parameters)
        summary = {"version": model.info.version, "num_texts": num_texts}
        if parsed.json:
            print_json(summary)
        else:
            say(f"answered {num_texts} texts in {parsed.output}")
        return OK
    answers = predict_texts(model, parsed.texts, parameters)
    if parsed.json:
        print_json(answers)
    else:
        rows = [
            (answer["text"] if not rank else "", each["text"], f"{each['score']:.4f}")
            for answer in answers
            for rank, each in enumerate(answer["candidates"])
        ]
        print_table(("text", "candidate", "score"), rows, right=("score",))
    return OK


def type_as_you_go(parsed: argparse.Namespace) -> int:
    """The likeliest next words after each line of stdin."""
    from flows.command.typing_aid import open_session, suggestions

    registry = _registry(parsed)
    session = open_session(registry, registry.find(parsed.name, parsed.version))
    session.suggest(parsed.top)  # nobody who types waits for what the first answer loads
    prompt = "> " if sys.stdin.isatty() else ""
    try:
        print(prompt, end="", file=sys.stderr, flush=True)  # noqa: T201
        for each in suggestions(session, sys.stdin.buffer, parsed.top):
            if parsed.json:
                line = json.dumps(finite(each.to_dict()), ensure_ascii=False, allow_nan=False)
                print(printable_json(line), flush=True)  # noqa: T201
            else:
                say("  ".join(f"{one.text} {one.score:.3f}" for one in each.candidates))
                sys.stdout.flush()
            print(prompt, end="", file=sys.stderr, flush=True)  # noqa: T201
    except KeyboardInterrupt:
        pass  # that is how one stops typing
    if prompt:
        print(file=sys.stderr)  # noqa: T201
    return OK


def export(parsed: argparse.Namespace) -> int:
    """A version as a folder that runs without Tidemill."""
    from flows.export.export import export

    registry = _registry(parsed)
    version = registry.find(parsed.name, parsed.version)
    root = warehouse_root(parsed.warehouse)
    report = export(root, registry, version, parsed.folder, parsed.precision)
    if parsed.json:
        print_json(report.model_dump(mode="json"))
        return OK
    say(
        f"version {report.version} ({report.variant}) of {parsed.name} is in {report.folder}: "
        f"{report.precision}, {report.num_bytes:,} bytes"
    )
    if report.overlap is None:
        say("its validation rows are gone: nothing was compared")
    else:
        say(
            f"of the model's ten likeliest words it offers {report.overlap:.2%}, after "
            f"{report.num_words:,} words of validation"
        )
    return OK


def search(parsed: argparse.Namespace) -> int:
    """One text by greedy, beam and exhaustive search."""
    from flows.command.answers import search_texts

    registry = _registry(parsed)
    version = registry.find(parsed.name, parsed.version)
    results = search_texts(registry, version, parsed.text, parsed.max_tokens)
    if parsed.json:
        print_json([asdict(each) for each in results])
        return OK
    rows = [
        (
            each.search,
            each.text if each.finished else "(gave up)",
            f"{each.log_probability:.3f}" if each.finished else "",
            f"{each.score:.3f}" if each.finished else "",
            f"{each.num_hypotheses:,}",
        )
        for each in results
    ]
    titles = ("search", "answer", "log P", "score", "prefixes")
    print_table(titles, rows, right=titles[2:])
    return OK


def rollback(parsed: argparse.Namespace) -> int:
    """Bring the previous champion back."""
    champion = _registry(parsed).rollback(parsed.name)
    say(f"version {champion.version} ({champion.variant}) is the champion of {parsed.name} again")
    return OK


def promote(parsed: argparse.Namespace) -> int:
    """Make a version the champion."""
    _registry(parsed).promote(parsed.name, parsed.version, parsed.reason)
    say(f"version {parsed.version} is the champion of {parsed.name}")
    return OK


def ui(parsed: argparse.Namespace) -> int:
    """MLflow's pages, in the browser."""
    registry = _registry(parsed)
    command = registry.server_command(port=parsed.port)
    _check_port(parsed.port)
    say(f"http://127.0.0.1:{parsed.port}  (Ctrl-C ends it)")
    environment = {**os.environ, **registry.server_environment()}
    with subprocess.Popen(command, env=environment) as server:
        try:
            code = server.wait()
        except KeyboardInterrupt:
            server.terminate()
            server.wait()
            return OK
    return code if code >= 0 else 128 - code  # as shells say which signal ended it


def _check_port(port: int) -> None:
    """Raises InputError where no server can listen on a port of 127.0.0.1."""
    if not 1 <= port <= 65535:
        raise InputError(f"--port is {port}: it must be from 1 to 65535")
    with socket.socket() as tried:
        # As servers do: a port whose last connection was just closed is free.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used ({error.strerror}): choose another with --port"
            ) from error


def doctor(parsed: argparse.Namespace) -> int:
    """Check this installation; a finding is exit code 1."""
    from flows.command.doctor import diagnose

    checks = diagnose(warehouse_root(parsed.warehouse))
    if parsed.json:
        print_json([vars(check) for check in checks])
    else:
        print_table(
            ("", "subject", "found", "remedy"),
            [
                ("ok" if c.right else "WRONG", c.subject, c.found, "" if c.right else c.remedy)
                for c in checks
            ],
        )
    return OK if all(check.right for check in checks) else FAILED


def deploy(parsed: argparse.Namespace) -> int:
    """Send the catalogue to the Prefect server."""
    from flows.command.deploy import deploy

    deploy(catalogue(parsed.catalogue), tell=say)
    return OK


def _run(flow: "Flow[..., Any]", arguments: Mapping[str, Any]) -> Any:
    from flows.command.deploy import server_address

    run: Callable[..., Any] = flow if server_address() else flow.fn
    return run(**arguments)


def _registry(parsed: argparse.Namespace) -> "Registry":
    """The registry to read from; InputError where nothing was ever published to it."""
    root, server = warehouse_root(parsed.warehouse), tracking_uri()
    if server is None and not (root / "mlflow").is_dir():
        raise InputError(
            f"{root} holds no models yet: run tidemill retrain demo, or name another warehouse"
        )
    from warehouse.registry.registry import Registry

    return Registry(root, server)


def _leaderboard_rows(registry: "Registry", name: str) -> list[dict[str, Any]]:
    return [
        {
            "version": each.version,
            "variant": each.variant,
            "champion": each.champion,
            "metrics": _scores_of(each),
            "reason": each.tags.get("promotion_reason", ""),
            "unit": each.params.get("text.unit", ""),
            "snapshot": each.tags.get("snapshot", "")[:12],
        }
        for each in registry.versions(name)
    ]


def _scores_of(version: "VersionInfo") -> dict[str, float | None]:
    """The scores of a version by name; None for those that are undefined."""
    from flows.publish.version import UNDEFINED_TAG

    undefined = version.tags.get(UNDEFINED_TAG, "").split(", ")
    return {name: None for name in undefined if name} | version.metrics


def _print_leaderboard(registry: "Registry", name: str, why: str = "") -> None:
    """The versions of a model as a table, which is champion and why, and where to see more.

    ``why`` is today's reason; where it is absent, the one that was written down at the promotion,
    and what the last retraining came to, which may have left the champion where it was.
    """
    versions = registry.versions(name)
    found = {each.version: _scores_of(each) for each in versions}
    scores = sorted({key for each in found.values() for key in each if key.startswith("test/")})
    shown = [*scores, "size/parameters", "speed/training_seconds"]
    titles = [*(key.removeprefix("test/") for key in scores), "parameters", "seconds"]
    origins = {
        (
            each.tags.get("snapshot", ""),
            each.tags.get("vocabulary", ""),
            each.params.get("text.unit", ""),
        )
        for each in versions
    }
    print_table(
        ("version", "variant", "", *titles, "data"),
        [
            (
                str(each.version),
                each.variant,
                "champion" if each.champion else "",
                *(
                    "undefined"
                    if key in found[each.version] and found[each.version][key] is None
                    else short_number(found[each.version].get(key))
                    for key in shown
                ),
                each.tags.get("snapshot", "")[:8],
            )
            for each in versions
        ],
        right=("version", *titles),
    )
    if scores:
        say("scores: on the test split; the champion is chosen on the validation split")
    for each in versions:
        if each.champion:
            say(f"champion: {why or each.tags.get('promotion_reason', 'no reason is known')}")
    if not why and (last := registry.decision(name)):
        say(f"last retraining, {last}")
    if len(origins) > 1 and "test/perplexity" in scores:
        say(
            "These versions differ in data, in the unit of text or in vocabulary: their "
            "perplexities do not compare; bits per character do where the data is the same."
        )
    say(f"pages: tidemill ui, then {registry.page(name)}")
    say(f"side by side: {registry.leaderboard_page(name)}")
