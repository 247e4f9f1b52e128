"""The command line: `deepcore train`, `predict`, `summary`, `info`, `warmup`, `cache`. One file per command."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from deepcore.cli.terminated import Terminated
from deepcore.config import settings
from deepcore.errors import DeepcoreError, suggest

COMMANDS = ("train", "predict", "summary", "info", "warmup", "cache")

OK, FAILED, USER_ERROR, INTERRUPTED = 0, 1, 2, 130
#: The status of a process ended by SIGPIPE: the reader of its output is gone.
CLOSED_PIPE = 141


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").split()
        options = [name for action in self._actions for name in action.option_strings]
        if message.startswith("unrecognized") and unknown[0].startswith("-"):
            message = f"there is no option {unknown[0].partition('=')[0]!r}; {suggest(unknown[0], options)}"
        self.exit(USER_ERROR, f"{self.prog}: {message}\n  {self.prog} --help lists what there is\n")


class _Paragraphs(argparse.HelpFormatter):
    """Descriptions of several paragraphs, each filled to the width of the terminal."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(_Paragraphs, self)._fill_text(part, width, indent) for part in text.split("\n\n"))


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    from deepcore import __version__

    parser = _Parser(
        prog="deepcore",
        description="Deep learning on NumPy and CuPy arrays.",
        epilog="Exit status: 0 done, 1 not everything could be done, 2 something in the command, a file or the data is wrong, 130 interrupted, 141 nobody reads the output any more, 129 and 143 ended by SIGHUP and SIGTERM.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"deepcore {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Parser)
    parsers = {}
    for name in COMMANDS:
        module = importlib.import_module(f"deepcore.cli.{name}")
        text = (module.__doc__ or name).strip()
        sub = commands.add_parser(
            name,
            help=text.partition("\n")[0],
            description=text,
            formatter_class=_Paragraphs,
            allow_abbrev=False,
        )
        module.arguments(sub)
        sub.add_argument("--traceback", action="store_true", help="show where an error came from")
        sub.set_defaults(run=module.run)
        parsers[name] = sub
    return parser, parsers


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    first_word = next((a for a in argv if not a.startswith("-")), None)
    if argv and argv[0] == first_word and first_word not in COMMANDS:
        print(f"deepcore: there is no command {first_word!r}; {suggest(first_word, COMMANDS)}", file=sys.stderr)
        return USER_ERROR
    parser, parsers = _parser()
    try:
        args, unknown = parser.parse_known_args(argv)
        if args.command is None:
            if unknown:
                parser.error(f"unrecognized arguments: {' '.join(unknown)}")
            parser.print_help()
            return OK
        if unknown:
            parsers[args.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    except SystemExit as exit:
        return int(exit.code or 0)
    try:
        if args.command != "info":  # `info` prints the problems
            settings.check()
        status = args.run(args)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return INTERRUPTED
    except Terminated as signal:
        with contextlib.suppress(OSError):
            print("\nterminated", file=sys.stderr)
        return 128 + signal.signum
    except BrokenPipeError as error:  # the reader of a pipe is gone, as in `deepcore info | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        notes = getattr(error, "__notes__", ())
        if notes:  # they name unfinished work
            print(
                f"deepcore {args.command}: " + "\n  ".join(["nobody reads the output any more", *notes]),
                file=sys.stderr,
            )
        return CLOSED_PIPE
    except (DeepcoreError, OSError, MemoryError) as error:
        if args.traceback:
            raise
        print(f"deepcore {args.command}: {_message(error)}", file=sys.stderr)
        return USER_ERROR


def _message(error: BaseException) -> str:
    if isinstance(error, DeepcoreError):
        error.call_site = ""  # a line of the launcher script is no help
    return "\n  ".join([str(error) or type(error).__name__, *getattr(error, "__notes__", ())])
