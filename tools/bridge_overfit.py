"""Learn 15 of the 18 real BridgeData episodes by heart, and look at the other 3 beside two trivial predictors.

python tools/bridge_overfit.py --data DIR [--steps N]. Exit code 1 when fewer than 95 % of the training action tokens are right.

The three episodes say nothing about the network's worth: there are fifteen to learn from, of ten frames each.
"""

import argparse
import sys
import tempfile
from dataclasses import replace

import numpy as np

from ideomotor.model.weights import load_network
from ideomotor.train.batches import Data, Split, load_data
from ideomotor.train.config import TrainConfig
from ideomotor.train.loop import train
from ideomotor.train.metrics import evaluate
from ideomotor.train.parallel import Group
from ideomotor.train.stages import SlotLearner

ENOUGH = 0.95  # share of the training action tokens whose most likely bin is the right one


def main() -> int:
    """Train, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of bridge-rlds-train/bridge_dataset")
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bridge-") as folder:
        config = TrainConfig(
            data=options.data,
            out=f"{folder}/run",
            preset="tiny",
            steps=options.steps,
            batch=32,
            processes=1,
            learning_rate=4e-3,
            weight_decay=0.0,
            brightness=0.0,
            contrast=0.0,
            validation_share=3 / 18,
            checkpoint_every=options.steps,
            eval_every=max(1, options.steps // 3),
        )
        final = train(config)
        data = load_data(config, final)
        learner = SlotLearner(load_network(final), config, data.pipeline, None)
    held_out = evaluate(learner, data, Group(), "fp32")
    learned = evaluate(learner, _training_windows(data), Group(), "fp32")
    _print_table(data, held_out["errors"])
    share = learned["accuracy"]["action"]
    print(f"training action tokens right: {share:.1%} (at least {ENOUGH:.0%} are asked for)")
    return 0 if share >= ENOUGH else 1


def _training_windows(data: Data) -> Data:
    """Return the same data with the training windows in the place of the held-out ones."""
    splits = tuple(Split(split.train, split.train, split.frames) for split in data.splits)
    places = [(d, i) for d, split in enumerate(splits) for i in range(len(split.train))]
    return replace(data, splits=splits, held_out=places)


def _print_table(data: Data, errors: dict[str, float]) -> None:
    train_source, held_out = data.splits[0].train, data.splits[0].held_out
    mean_A = train_source.actions.astype(np.float64).mean(axis=0)
    windows = [held_out[i] for i in range(len(held_out))]
    target_NTA = np.stack([window.actions for window in windows]).astype(np.float64)
    valid_NT1 = ~np.stack([window.actions_pad for window in windows])[..., None]
    previous_NA = np.stack([_previous(held_out.actions, held_out.place(i)[1], i) for i in range(len(held_out))])
    rows = {
        "mean action": np.abs(target_NTA - mean_A),
        "previous action": np.abs(target_NTA - previous_NA[:, None]),
    }
    print(f"\nmean absolute error on {len(held_out.episodes)} held-out episodes ({len(windows)} windows), raw units")
    print(f"{'':>24}{'network':>12}" + "".join(f"{name:>18}" for name in rows))
    for a, channel in enumerate(data.pipeline.embodiment.action):
        ours = errors.get(f"{channel.name} [{channel.unit}]", 0.0)
        others = [float((error[..., a] * valid_NT1[..., 0]).sum() / valid_NT1.sum()) for error in rows.values()]
        print(f"{channel.name:>24}{ours:>12.5f}" + "".join(f"{error:>18.5f}" for error in others))


def _previous(actions_NA: np.ndarray, frame: int, index: int) -> np.ndarray:
    """Return the action before a window, zeros at the start of an episode."""
    return actions_NA[index - 1] if frame else np.zeros_like(actions_NA[0])


if __name__ == "__main__":
    sys.exit(main())
