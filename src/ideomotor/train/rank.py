"""The main program of one training process. Started by `ideomotor.train.loop`; not meant to be started by hand."""

import sys
from pathlib import Path

from ideomotor.core.errors import UserError
from ideomotor.train.loop import read_config, run
from ideomotor.train.parallel import ENDED_AT_REQUEST, ENDED_WITH_MESSAGE, StopRequest, die_with_parent, joined


def main(arguments: list[str]) -> int:
    """Train as one rank: CONFIG RANK WORLD STORE ERRORS. Return the exit code."""
    config, rank, world, store, errors = arguments
    stop = StopRequest()
    stop.listen()
    die_with_parent()
    try:
        with joined(int(rank), int(world), Path(store)) as group:
            finished = run(read_config(Path(config)), group, stop)
    except UserError as error:
        Path(errors).write_text(str(error), encoding="utf-8")
        return ENDED_WITH_MESSAGE
    return 0 if finished else ENDED_AT_REQUEST


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
