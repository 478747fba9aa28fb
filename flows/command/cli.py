"""The command ``tidemill``: parses arguments, calls a command, reports errors.

Text from data is shown with every control character escaped, and never read as markup.
"""

import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from flows.command import data, models, outputs, servers, storage, training
from flows.command.exit_codes import EXPLAINED, FAILED, INTERRUPTED, MISTAKE, NOTHING_YET, OK
from flows.command.terminal import log_to_stderr, print_json, printable
from flows.environment import warehouse_root
from pipeline.errors import InputError, NothingYetError, choose_from
from warehouse.errors import FORBIDDEN, FULL, StorageError, remedy_of

QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "flows,pipeline,warehouse",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
"""No telemetry; our own log lines belong to the flow run, if there is one. What is set stays."""

GROUPS: dict[str, dict[str, Callable[..., int]]] = {
    "Train": {"retrain": training.retrain},
    "Data": {
        "ingest": data.ingest,
        "profile": data.profile,
        "quarantine": data.quarantine,
        "forget": data.forget,
    },
    "Use a model": {
        "predict": models.predict,
        "search": models.search,
        "type": models.type_as_you_go,
        "export": models.export,
    },
    "Registry": {
        "leaderboard": models.leaderboard,
        "promote": models.promote,
        "rollback": models.rollback,
        "ui": servers.ui,
    },
    "Storage": {"verify": storage.verify, "gc": storage.gc, "compact": storage.compact},
    "Set up": {
        "doctor": servers.doctor,
        "deploy": servers.deploy,
        "schema": outputs.schema,
    },
}
"""The commands, in the order and the groups of the help."""


class _Commands(TyperGroup):
    """Typer's group, which names the nearest and all commands where one is unknown."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            choices = choose_from(args[0], self.commands)
            raise InputError(f"there is no command {args[0]!r}: {choices}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="tidemill",
    cls=_Commands,
    help="Train, compare and register recurrent sequence models.",
    epilog=EXPLAINED,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Those of the command line; by default those of this process.

    Returns:
        The exit code, one of ``exit_codes``.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    log_to_stderr()
    try:
        code = app(
            None if arguments is None else list(arguments),
            prog_name="tidemill",
            standalone_mode=False,
        )
        # A closed pipe is met here, not when Python closes the stream.
        sys.stdout.flush()
        return int(code or OK)
    except TyperException as error:
        return _refused(_usage_sentence(error))
    except InputError as error:
        return _refused(str(error))
    except BrokenPipeError:
        return _reader_is_gone()


def _reporting(command: Callable[..., int]) -> Callable[..., int]:
    """The command, with every exception turned into a message on stderr and an exit code."""

    @functools.wraps(command)
    def run(**options: Any) -> int:
        try:
            return command(**options)
        except NothingYetError as error:
            if options.get("as_json"):
                print_json([] if command.__name__ in outputs.LISTS else None)
            return _refused(str(error), NOTHING_YET)
        except (InputError, StorageError) as error:
            failed = any(map(_is_full_or_forbidden, _causes(error)))
            return _refused(str(error), FAILED if failed else MISTAKE)
        except KeyboardInterrupt:
            return _refused("interrupted. Run the same command again to resume.", INTERRUPTED)
        except BrokenPipeError:
            return _reader_is_gone()
        except Exception as error:
            if isinstance(error, OSError) and _is_full_or_forbidden(error):
                where = error.filename or warehouse_root(options.get("warehouse", ""))
                return _refused(f"{where}: {error.strerror}: {remedy_of(error)}", FAILED)
            _say_on_stderr(printable(traceback.format_exc(), keep="\n").removesuffix("\n"))
            return FAILED

    return run


for _group, _commands in GROUPS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_group, epilog=EXPLAINED)(_reporting(_command))


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            found = version("tidemill")
        except PackageNotFoundError:
            found = "(not installed)"
        print(f"tidemill {found}")  # noqa: T201
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            callback=_show_version,
            is_eager=True,
            show_default=False,
        ),
    ] = False,
) -> None:
    pass


def _reader_is_gone() -> int:
    """Whoever read our output has closed it: nothing more may be written, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


def _refused(sentence: str, code: int = MISTAKE) -> int:
    if sentence:
        _say_on_stderr(f"tidemill: {printable(sentence)}")
    return code


def _say_on_stderr(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_full_or_forbidden(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in FULL | FORBIDDEN


def _usage_sentence(error: TyperException) -> str:
    """What is wrong with the command line, in one line; empty where the help was shown instead."""
    message = " ".join(error.format_message().split())
    if not message:
        return ""
    context = getattr(error, "ctx", None)
    options = [
        option
        for parameter in (context.command.params if context else ())
        for option in parameter.opts
        if option.startswith("--")
    ]
    unknown = getattr(error, "option_name", "")
    if hasattr(error, "possibilities"):
        message = f"there is no option {unknown}: {choose_from(unknown, options)}"
    elif message.startswith("Got unexpected extra argument") and "--set" in options:
        message += ". Repeat an option before each of its values: --set A=1 --set B=2"
    path = context.command_path if context else "tidemill"
    return f"{message.removesuffix('.')}. Run {path} --help to see what it takes."


if __name__ == "__main__":
    sys.exit(main())
