"""`ideomotor COMMAND`: find the command's file, run it, and turn the user's errors into messages and exit codes."""

import errno
import importlib
import os
import sys

COMMANDS = {
    "collect": "record demonstrations, labelled scenes or corrections in simulation",
    "data": "look at a dataset: info, view, check",
    "train": "train a policy, or run a whole recipe (small-tabletop)",
    "eval": "measure a policy in closed loop, with intervals, a report and videos",
    "predict": "ask a policy once: the action for a picture and an instruction, or an answer in words",
    "weights": "look at a checkpoint of OpenVLA or a relative, or write it in another layout",
    "safety": "limits of an arm and how quickly it stops; the shield under adversarial proposals",
    "demo": "the whole loop in a few minutes: run, collect, fine-tune, compare, report",
}


def main() -> None:
    """Run the command named by the first argument. Exit code 2: usage; 1: a fault in the input; 130: interrupted."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from ideomotor import __version__

        print(__version__)
        return 0
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # processes share the work; threads in each of them would fight for the cores
    return _guarded(arguments[0], arguments[1:])


def _guarded(command: str, options: list[str]) -> int:
    from ideomotor.core.errors import UsageError, UserError, unknown

    try:
        if command not in COMMANDS:
            raise unknown("command", command, COMMANDS)
        importlib.import_module(f"ideomotor.cli.{command}").main(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except OSError as error:
        remedy = " Free some space or choose another --out." if error.errno == errno.ENOSPC else ""
        print(f"error: {error.strerror or error}: {error.filename or 'while writing'}.{remedy}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "ideomotor":
            raise
        print(f"error: {error.name} is not installed; pip install 'ideomotor[train]' brings it", file=sys.stderr)
        return 1
    except SystemExit as end:  # of the parser, which has said why: 2 after a fault, 0 after --help
        return int(end.code or 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def usage() -> str:
    """Return the text of `ideomotor --help`."""
    lines = [f"  {name:<9} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        ["usage: ideomotor COMMAND [options]", "", "Vision-language-action models the whole way.", "", *lines]
        + ["", "`ideomotor COMMAND --help` shows the options of a command, `ideomotor --version` the version."]
    )
