"""Compare our reader of RLDS datasets with TensorFlow Datasets, array by array, and make the small datasets that the tests read.

    python3 -m venv build/tfds && build/tfds/bin/pip install tensorflow-datasets==4.9.9 tensorflow-cpu==2.20.0 pillow   # 1.5 GB
    .venv/bin/python tools/tfds_peer.py build/tfds/bin/python                     # compare
    .venv/bin/python tools/tfds_peer.py build/tfds/bin/python --write             # make tests/data/files/rlds again, then compare

TFDS writes five datasets with awkward features and one shard is compressed again by TensorFlow, because TFDS cannot write GZIP; then TFDS (and
`tf.data.TFRecordDataset(compression_type="GZIP")`) reads everything into `expected.npz` files, which ours must equal.
The second half of this file, `tfds_datasets.py`, runs in TFDS' environment, where Ideomotor is not installed.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ideomotor.data.rlds.dataset import INSTRUCTIONS, RldsDataset

HERE = Path(__file__).resolve().parent
FILES = HERE.parent / "tests" / "data" / "files" / "rlds"
FIXTURES = Path(os.environ.get("IDEOMOTOR_FIXTURES", HERE.parents[1] / "shared" / "fixtures"))
JPEG_LEVELS = 0  # by how much decoders may differ


def main() -> None:
    """Let TFDS write and read, then compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="of TFDS' environment")
    parser.add_argument("--write", action="store_true", help="make the test data again")
    options = parser.parse_args()

    def inside(*arguments: str) -> None:
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
        subprocess.run([options.python, str(HERE / "tfds_datasets.py"), *arguments], check=True, env=environment)

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if options.write:
            inside("write", str(FILES))
        folders = sorted(path.parent for path in FILES.glob("*/*/features.json"))
        if (bridge := FIXTURES / "bridge-rlds-train" / "bridge_dataset" / "1.0.0").is_dir():
            folders.append(bridge)
        found: list[str] = []
        for number, folder in enumerate(folders):
            expected = root / f"{number}.npz"
            inside("read", str(folder), str(expected))
            committed = folder / "expected.npz"
            if committed.is_file() and committed.read_bytes() != expected.read_bytes():
                found.append(f"{committed} is not what TFDS reads now; run with --write")
            count, wrong = compare(folder, expected)
            print(f"{folder.parent.name}: {count} arrays, {len(wrong)} differ")
            found += wrong
    print("\n".join(found) or "every array equal")
    raise SystemExit(bool(found))


def compare(folder: Path, expected: Path) -> tuple[int, list[str]]:
    """Return the number of arrays that TFDS read from a dataset, and a sentence for each that we read otherwise."""
    wrong = list[str]()
    arrays = dict(np.load(expected))
    with tempfile.TemporaryDirectory() as copy:  # an index will lie beside the shards
        dataset = RldsDataset(shutil.copytree(folder, Path(copy) / folder.name))
        for name, theirs in arrays.items():
            try:
                text = _difference(theirs, _ours(dataset, name))
            except (ValueError, KeyError, IndexError, TypeError) as error:
                text = repr(error)
            if text:
                wrong.append(f"{folder.parent.name} {name}: {text}")
        offered = list(_offered(dataset))
    held = {name.split("#")[0].split("|", 2)[2] for name in arrays}
    missing = [leaf for leaf in offered if leaf not in held]
    return len(arrays), wrong + [f"{folder.parent.name}: we offer '{leaf}', which TFDS does not" for leaf in missing]


def _ours(dataset: RldsDataset, name: str) -> Any:
    """Return what we read under a name `split|episode|steps.path#step#row`, or `split|episode|path` for metadata."""
    place, *indices = name.split("#")
    split, number, path = place.split("|", 2)
    if path == "lengths":
        return [dataset.length(episode) for episode in dataset.splits[split]]
    episode = dataset.splits[split][int(number)]
    value: Any
    if not path.startswith("steps."):
        value = dataset.metadata(episode)[path]
    elif f"steps/{path.removeprefix('steps.').replace('.', '/')}" in INSTRUCTIONS:
        return [dataset.instruction(episode)] * dataset.length(episode)  # of the first step, for the whole episode
    elif (column := path.removeprefix("steps.")) in dataset.features:
        value = dataset.column(episode, column)
    else:
        camera = column if column in dataset.cameras else column.rpartition(".")[2]
        frames = range(dataset.length(episode))
        return np.array([dataset.image(episode, frame, camera) for frame in frames])
    for index in indices:
        value = len(value) if index == "rows" else value[int(index)]
    return value


def _offered(dataset: RldsDataset) -> Iterator[str]:
    """Yield every column and every piece of metadata that we read, as TFDS' arrays are called."""
    for name in dataset.features:
        yield f"steps.{name}"
    if len(dataset):
        yield from dataset.metadata(0)


def _difference(theirs: np.ndarray, ours: Any) -> str:
    mine = np.asarray(ours)
    if mine.dtype == object and len(mine) and isinstance(mine[0], np.ndarray):  # rows that happen to be equally long
        mine = np.stack(list(mine))
    if theirs.ndim == 4 and mine.ndim == 4 and theirs.shape[3] == 1 and mine.shape[3] == 3:
        mine = mine[..., :1]  # a grey camera: ours repeats the one channel
    if theirs.dtype.kind == "U":
        mine = mine.astype(theirs.dtype) if mine.size else mine.astype("U1")
    if mine.shape != theirs.shape and mine.size + theirs.size:
        return f"shape {mine.shape}, TFDS {theirs.shape}"
    if np.array_equal(mine, theirs) or (theirs.dtype.kind == "f" and np.array_equal(mine, theirs, equal_nan=True)):
        return ""
    if theirs.dtype.kind in "biuf":
        difference = np.abs(mine.astype(float) - theirs.astype(float))
        return f"{np.count_nonzero(difference)} of {difference.size} values, by up to {difference.max()}"
    return f"{mine.tolist()!r:.80} instead of {theirs.tolist()!r:.80}"


if __name__ == "__main__":
    main()
