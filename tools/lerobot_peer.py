"""Exchange datasets with lerobot in both directions, and print what came of it.

    python3 -m venv build/lerobot && build/lerobot/bin/pip install lerobot==0.4.4        # several GB
    .venv/bin/python tools/lerobot_peer.py build/lerobot/bin/python

Ours to theirs: two recordings of several files are loaded, split, merged; every value and pixel of the results is compared.
Theirs to ours: one dataset of PNG images and one of video are opened, checked and compared.
The second half of this file runs in lerobot's environment, where Ideomotor is not installed.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LENGTHS = (4, 7, 5, 6, 3)
TASKS = ("pick the red cube", "put the can on the plate")
HEIGHT, WIDTH = 64, 96


def numbers(episode: int, frame: int) -> tuple[list[float], list[float]]:
    """State and action of a frame, exact in float32."""
    return [episode, frame, episode - frame / 8], [frame / 4, -episode]


def picture(episode: int, frame: int) -> Any:
    """An image whose blue says which frame it is of, 9 apart; smooth enough for a video codec."""
    import numpy as np

    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 2, y * 3, np.full_like(x, 16 + 9 * (sum(LENGTHS[:episode]) + frame))], -1).astype(np.uint8)


def task(episode: int) -> str:
    """The instruction of an episode."""
    return TASKS[episode % len(TASKS)]


# --------------------------------------------------------------------------- in Ideomotor's environment


def main(peer: str) -> None:
    """Write, let the peer work, and compare."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for part in ("a", "b"):
            record(root / part)
        subprocess.run([peer, str(Path(__file__).resolve()), "--inside", str(root)], check=True)
        compare(root / "split_front", [0, 1, 2])
        compare(root / "split_back", [3, 4])
        compare(root / "merged", [0, 1, 2, 3, 4] * 2)
        compare(root / "theirs_image", [0, 1, 2, 3, 4])
        compare(root / "theirs_video", [0, 1, 2, 3, 4], tolerance=4.0)
    print("all exchanges agree")


def record(folder: Path) -> None:
    """Write our dataset, in several files."""
    import numpy as np

    from ideomotor.core.spec import Camera, Channel, Embodiment
    from ideomotor.core.types import Episode, Observation, Step
    from ideomotor.data.lerobot.writer import DatasetWriter

    state, action = tuple(Channel(n, "m") for n in "xyz"), (Channel("x", "m"), Channel("y", "m"))
    embodiment = Embodiment("toy", "panda", 10.0, action, state, (Camera("front", HEIGHT, WIDTH),))
    with DatasetWriter(folder, embodiment, file_size=40_000) as writer:
        for episode, length in enumerate(LENGTHS):
            steps: list[Step] = []
            for frame in range(length):
                state_S, action_A = (np.array(values, np.float32) for values in numbers(episode, frame))
                labels = {"label.index": np.array(frame), "expert.chunk": np.full(4, episode, np.float32)}
                steps.append(
                    Step(Observation(frame / 10, {"front": picture(episode, frame)}, state_S), action_A, labels)
                )
            writer.add_episode(Episode(embodiment, task(episode), steps, "unknown" if episode == 1 else "success"))


def compare(folder: Path, episodes: list[int], tolerance: float = 0.0) -> None:
    """Open a dataset that the peer wrote; every value must be that of the stated episodes, and every pixel (video: the mean colour)."""
    import numpy as np

    from ideomotor.data.check import check_dataset
    from ideomotor.data.opening import open_dataset

    faults = [str(fault) for fault in check_dataset(folder)]
    dataset = open_dataset(folder)
    assert len(dataset) == len(episodes), (len(dataset), episodes)
    worst_pixel, worst_mean = 0, 0.0
    for number, episode in enumerate(episodes):
        assert dataset.length(number) == LENGTHS[episode]
        assert dataset.instruction(number) == task(episode), dataset.instruction(number)
        for frame in range(LENGTHS[episode]):
            state, action = numbers(episode, frame)
            assert dataset.column(number, "observation.state")[frame].tolist() == state
            assert dataset.column(number, "action")[frame].tolist() == action
            difference = dataset.image(number, frame, "front").astype(int) - picture(episode, frame)
            worst_pixel = max(worst_pixel, int(np.abs(difference).max()))
            worst_mean = max(worst_mean, float(np.abs(difference.mean((0, 1))).max()))
    assert worst_mean <= tolerance, worst_mean
    assert worst_pixel == 0 or tolerance > 0, worst_pixel
    success = [dataset.success(number) for number in range(len(dataset))]
    print(
        f"  ours reads {folder.name}: {len(episodes)} episodes, largest difference of a pixel {worst_pixel},"
        f" of a mean colour {worst_mean:.1f}, success {success}"
    )
    print("\n".join(f"    fault: {fault}" for fault in faults) or "    no faults")


# --------------------------------------------------------------------------- in lerobot's environment


def inside(root: Path) -> None:
    """Load, split, merge and write with lerobot."""
    import lerobot
    import torch
    from lerobot.datasets.dataset_tools import merge_datasets, split_dataset
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    print(f"lerobot {lerobot.__version__}, torch {torch.__version__}")
    ours = [LeRobotDataset(f"local/{part}", root=root / part) for part in ("a", "b")]
    for dataset in ours:
        load(dataset)
    splits = split_dataset(ours[0], {"front": [0, 1, 2], "back": [3, 4]}, output_dir=root / "split")
    print(f"  lerobot splits it: { ({name: len(part) for name, part in splits.items()}) } frames")
    for name in ("front", "back"):
        (root / "split" / name).rename(root / f"split_{name}")
    merged = merge_datasets(ours, "local/merged", output_dir=root / "merged")
    print(f"  lerobot merges it with another: {merged.num_episodes} episodes, {len(merged)} frames")
    for kind in ("image", "video"):
        write(root / f"theirs_{kind}", kind)


def load(dataset: Any) -> None:
    """Compare every frame of our dataset as lerobot loads it."""
    assert (dataset.num_episodes, len(dataset), dataset.fps) == (len(LENGTHS), sum(LENGTHS), 10)
    index = 0
    for episode, length in enumerate(LENGTHS):
        for frame in range(length):
            item = dataset[index]
            state, action = numbers(episode, frame)
            assert item["observation.state"].tolist() == state
            assert item["action"].tolist() == action
            assert item["task"] == task(episode)
            assert item["label.index"].item() == frame
            pixels = (item["observation.images.front"] * 255).round().byte().permute(1, 2, 0).numpy()
            assert (pixels == picture(episode, frame)).all()
            index += 1
    print(f"  lerobot loads ours: {dataset.num_episodes} episodes, {len(dataset)} frames, every value and pixel equal")


def write(root: Path, kind: str) -> None:
    """Write the same episodes with lerobot."""
    import numpy as np
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    features = {
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "observation.images.front": {
            "dtype": kind,
            "shape": (HEIGHT, WIDTH, 3),
            "names": ["height", "width", "channels"],
        },
    }
    dataset = LeRobotDataset.create(f"local/{kind}", 10, features, root=root, use_videos=kind == "video", vcodec="h264")
    for episode, length in enumerate(LENGTHS):
        for frame in range(length):
            state, action = (np.array(values, np.float32) for values in numbers(episode, frame))
            image = picture(episode, frame)
            dataset.add_frame(
                {"observation.state": state, "action": action, "observation.images.front": image, "task": task(episode)}
            )
        dataset.save_episode()
    dataset.finalize()
    print(f"  lerobot writes one with {kind}")


if __name__ == "__main__":
    inside(Path(sys.argv[2])) if sys.argv[1] == "--inside" else main(sys.argv[1])
