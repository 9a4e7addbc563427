"""Which family of networks a run trains: the one place that knows both."""

from pathlib import Path

from ideomotor.core.errors import UsageError
from ideomotor.core.files import read_json
from ideomotor.model.config import OpenVLAConfig
from ideomotor.model.weights import CONFIG
from ideomotor.train.batches import Data, SlotData, load_data
from ideomotor.train.config import Lora, TrainConfig, number_of_processes
from ideomotor.train.learner import Learner
from ideomotor.train.openvla import build_token_learner, gpus
from ideomotor.train.openvla_batches import TokenData, load_token_data
from ideomotor.train.parallel import Group
from ideomotor.train.stages import build_slot_learner


def open_data(config: TrainConfig, start: Path | None) -> Data:
    """Open the data of a run that starts from the policy in a folder, or from scratch.

    Raises:
        UserError: something about the data or the policy.
    """
    if isinstance(config.stage, Lora):
        return load_token_data(config, start)
    if start is not None:
        _refuse_openvla(start)
    return load_data(config, start)


def _refuse_openvla(start: Path) -> None:
    path = start / CONFIG
    config = read_json(path) if path.is_file() else {}
    if start.is_file() or config.get("model_type") == "openvla" or config.get("type") == OpenVLAConfig.__name__:
        raise UsageError(
            f"{start} is an OpenVLA, which is fine-tuned with --lora; networks with learned slots start from their own kind"
        )


def open_learner(config: TrainConfig, data: Data, start: Path | None, group: Group) -> Learner:
    """Return the network of a run, with what it learns."""
    match data:
        case TokenData():
            return build_token_learner(config, data, group)
        case SlotData():
            return build_slot_learner(config, data, start)
        case _:
            raise TypeError(f"{type(data).__name__} belongs to no family of networks")


def processes(config: TrainConfig) -> int:
    """Return how many ranks to start."""
    wanted = gpus(config.stage) if isinstance(config.stage, Lora) and config.processes == 0 else config.processes
    return number_of_processes(wanted)
