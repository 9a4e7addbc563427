"""The main program of one training process. Started by `ideomotor.train.loop`; not meant to be started by hand.

Loader workers import this module again as their main module, so it imports torch inside `main` only.
"""

import multiprocessing
import sys
from pathlib import Path

from ideomotor.core.errors import UserError

LOADER_MODULES = ["ideomotor.train.openvla_batches"]  # imported once for all loader workers


def main(arguments: list[str]) -> int:
    """Train as one rank: CONFIG RANK WORLD STORE ERRORS. Return the exit code."""
    from ideomotor.train.loop import read_config, run
    from ideomotor.train.parallel import (
        ENDED_ALONE,
        ENDED_AT_REQUEST,
        ENDED_WITH_MESSAGE,
        LostRankError,
        StopRequest,
        die_with_parent,
        joined,
    )

    config, rank, world, store, errors = arguments
    stop = StopRequest()
    stop.listen()
    die_with_parent()
    multiprocessing.set_forkserver_preload(LOADER_MODULES)
    try:
        with joined(int(rank), int(world), Path(store)) as group:
            finished = run(read_config(Path(config)), group, stop)
    except UserError as error:
        Path(errors).write_text(str(error), encoding="utf-8")
        return ENDED_WITH_MESSAGE
    except LostRankError:
        return ENDED_ALONE
    return 0 if finished else ENDED_AT_REQUEST


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
