"""Give converted datasets to lerobot 0.4.4, and LeRobotDataset v2.1 to its own converter to v3.0; print what came of it.

    python3 -m venv build/lerobot && build/lerobot/bin/pip install lerobot==0.4.4        # several GB
    .venv/bin/python tools/lerobot_v21_peer.py build/lerobot/bin/python

The source has what other formats have and LeRobotDataset has not: JPEG images, names that lerobot would misread, a matrix, a column of
text, ragged numbers, no success labels. It is converted to v3.0 and v2.1, with images and with video. lerobot loads both of v3.0, and
both of v2.1 after its converter; every value of every frame is compared, and every pixel (video: 35 dB).
The second half of this file runs in lerobot's environment, where Ideomotor is not installed.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LENGTHS = (4, 7, 5)
HEIGHT, WIDTH = 64, 96
BOUND = 35.0  # [dB]


def numbers(episode: int, frame: int) -> dict[str, Any]:
    """What lerobot should find in a frame, under the names that the conversion gives; exact in float32."""
    return {
        "observation.state": [episode, frame, episode - frame / 8],
        "action": [frame / 4, -episode],
        "reward": frame / 2,
        "raw.observation.im%61ge_mask": [episode, frame, 1, 0],
        "raw.action.matrix": [float(16 * episode + i + frame) for i in range(16)],
        "note": f"frame {frame} of {episode}",
        "raw.observation.boxes": json.dumps(
            {"dtype": "float32", "shape": [frame], "values": [float(i) for i in range(frame)]}
        ),
        "task": f"do {episode % 2}",
        "timestamp": frame / 10,
    }


def picture(episode: int, frame: int) -> Any:
    """An image whose blue says which frame it is of; smooth enough for a codec."""
    import numpy as np

    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 2, y * 3, np.full_like(x, 16 + 9 * (sum(LENGTHS[:episode]) + frame))], -1).astype(np.uint8)


# --------------------------------------------------------------------------- in Ideomotor's environment


def main(peer: str) -> None:
    """Convert, and let the peer load."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        convert_all(root)
        subprocess.run([peer, str(Path(__file__).resolve()), "--inside", str(root)], check=True)
        read_back(root)
    print("all exchanges agree")


def convert_all(root: Path) -> None:
    """Write the four datasets, and the JPEG files beside them."""
    from ideomotor.data.convert.job import convert_folder

    source: Any = make_source(root)
    for target in ("lerobot-v3", "lerobot-v2.1"):
        for video in (False, True):
            out = root / f"{target}-{'video' if video else 'image'}"
            print(convert_folder(source, out, target, video=video))


def make_source(root: Path) -> Any:  # noqa: C901 (one small class)
    """Return a dataset in memory."""
    import io

    import numpy as np
    from PIL import Image

    from ideomotor.core.spec import Camera
    from ideomotor.core.types import Success
    from ideomotor.data.dataset import EpisodeView, Feature

    features = (
        Feature("observation.state", "float32", (3,)),
        Feature("action", "float32", (2,)),
        Feature("reward", "float32", ()),
        Feature("observation.image_mask", "int64", (4,)),
        Feature("action.matrix", "float64", (4, 4)),
        Feature("note", "string", ()),
        Feature("observation.boxes", "float32", (-1,)),
    )
    there = {
        "observation.image_mask": "raw.observation.im%61ge_mask",
        "action.matrix": "raw.action.matrix",
        "observation.boxes": "raw.observation.boxes",
    }
    (root / "jpeg").mkdir()

    class Source:
        path, format, fps, embodiment = root / "source", "memory", 10.0, None
        content_hash = "memory"

        def __init__(self) -> None:
            self.features = {feature.name: feature for feature in features}
            self.cameras = {"front": Camera("front", HEIGHT, WIDTH)}
            self.splits = {"train": range(2), "val": range(2, 3)}

        def __len__(self) -> int:
            return len(LENGTHS)

        def __getitem__(self, episode: int) -> EpisodeView:
            return EpisodeView(self, episode)

        def length(self, episode: int) -> int:
            return LENGTHS[episode]

        def instruction(self, episode: int) -> str:
            return f"do {episode % 2}"

        def success(self, episode: int) -> Success:
            return "success" if episode else "failure"

        def column(self, episode: int, name: str) -> np.ndarray:
            feature = self.features[name]
            rows = [numbers(episode, frame)[there.get(name, name)] for frame in range(LENGTHS[episode])]
            if -1 in feature.shape or feature.dtype == "string":
                values = np.empty(len(rows), object)
                values[:] = (
                    rows if feature.dtype == "string" else [np.array(json.loads(r)["values"], np.float32) for r in rows]
                )
                return values
            return np.array(rows, feature.dtype).reshape(len(rows), *feature.shape)

        def image(self, episode: int, frame: int, camera: str) -> np.ndarray:
            return np.asarray(Image.open(io.BytesIO(self.encoded_image(episode, frame, camera))))

        def encoded_image(self, episode: int, frame: int, camera: str) -> bytes:
            assert camera == "front"
            path = root / "jpeg" / f"{episode}_{frame}.jpg"
            if not path.exists():
                Image.fromarray(picture(episode, frame)).save(path, quality=95)
            return path.read_bytes()

    return Source()


def read_back(root: Path) -> None:
    """Read what lerobot's converter made of our v2.1, and our own v2.1 once more."""
    from ideomotor.data.lerobot.v2 import open_lerobot

    for name in ("lerobot-v2.1-image", "lerobot-v2.1-video", "lerobot-v2.1-image_old", "lerobot-v2.1-video_old"):
        dataset = open_lerobot(root / name)
        for episode, length in enumerate(LENGTHS):
            assert dataset.length(episode) == length
            assert dataset.success(episode) == ("success" if episode else "failure"), dataset.success(episode)
            for frame in range(length):
                expected = numbers(episode, frame)
                for column in dataset.features:
                    value = dataset.column(episode, column)[frame]
                    assert (value.tolist() if hasattr(value, "tolist") else value) == expected[column], (column, value)
        what = "as lerobot converted it" if dataset.format.endswith("v3.0") else "as we wrote it"
        print(f"  ours reads {name} {what} ({dataset.format}): every value equal, success labels kept")


# --------------------------------------------------------------------------- in lerobot's environment


def inside(root: Path) -> None:
    """Load, convert, load."""
    import lerobot
    import torch
    from lerobot.datasets.v30.convert_dataset_v21_to_v30 import convert_dataset

    print(f"lerobot {lerobot.__version__}, torch {torch.__version__}")
    for kind in ("image", "video"):
        load(root, f"lerobot-v3-{kind}")
        convert_dataset(f"lerobot-v2.1-{kind}", root=root, push_to_hub=False)
        load(root, f"lerobot-v2.1-{kind}", "after lerobot's converter ")


def load(root: Path, name: str, how: str = "") -> None:
    """Compare every frame as lerobot loads it."""
    import numpy as np
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from PIL import Image

    dataset: Any = LeRobotDataset(f"local/{name}", root=root / name, video_backend="pyav")
    assert (dataset.num_episodes, len(dataset), dataset.fps) == (len(LENGTHS), sum(LENGTHS), 10)
    worst, index = float("inf"), 0
    for episode, length in enumerate(LENGTHS):
        for frame in range(length):
            item = dataset[index]
            for key, value in numbers(episode, frame).items():
                found = item[key].tolist() if hasattr(item[key], "tolist") else item[key]
                assert found == value or (key == "timestamp" and abs(found - value) < 1e-6), (key, found, value)
            assert (item["index"], item["frame_index"], item["episode_index"]) == (index, frame, episode)
            pixels = (item["observation.images.front"] * 255).round().permute(1, 2, 0).numpy()
            stored = np.asarray(Image.open(root / "jpeg" / f"{episode}_{frame}.jpg"), np.float64)
            error = float(np.square(pixels - stored).mean())
            worst = min(worst, float("inf") if error == 0 else 20 * np.log10(255) - 10 * np.log10(error))
            index += 1
    assert worst >= (BOUND if name.endswith("video") else float("inf")), worst
    pixels = "every pixel equal" if worst == float("inf") else f"each image at least {worst:.1f} dB from its original"
    print(
        f"  lerobot loads {name} {how}: {index} frames, every value equal, {pixels}; splits {dataset.meta.info['splits']}"
    )


if __name__ == "__main__":
    inside(Path(sys.argv[2])) if sys.argv[1] == "--inside" else main(sys.argv[1])
