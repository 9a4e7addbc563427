"""`open_dataset`: finds out the format of a dataset by looking. One line for each format."""

from pathlib import Path

from ideomotor.core.errors import UserError
from ideomotor.data.dataset import Dataset, Reading
from ideomotor.data.examine import check_once
from ideomotor.data.hdf5.files import open_hdf5
from ideomotor.data.lerobot.v2 import open_lerobot
from ideomotor.data.rlds.dataset import RldsDataset

AS_IT_IS = Reading()


def open_dataset(path: str | Path, reading: Reading = AS_IT_IS) -> Dataset:
    """Open a dataset: LeRobotDataset v2.0, v2.1 or v3.0, RLDS (TFRecord), or HDF5 as robomimic, LIBERO and ALOHA write it.

    Args:
        path: its folder; an HDF5 file too.
        reading: what the files do not say themselves.

    Raises:
        UserError: it is missing, empty, of an unknown format, or damaged; the message names the file.
    """
    folder = Path(path)
    if folder.is_file():
        return _open_hdf5(folder, reading)
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; give the folder of a dataset (LeRobotDataset, RLDS or HDF5)")
    if (folder / "meta").is_dir():
        return open_lerobot(folder, reading.decoder)
    if _looks_like_rlds(folder):
        return RldsDataset(folder, reading)
    if next(folder.glob("*.hdf5"), None) or next(folder.glob("*.h5"), None):
        return _open_hdf5(folder, reading)
    held = sorted(child.name for child in folder.iterdir())[:5]
    raise UserError(
        f"{folder} holds no dataset: neither meta/info.json (LeRobotDataset) nor *.tfrecord* files (RLDS) nor *.hdf5;"
        f" it {'holds ' + ', '.join(held) if held else 'is empty'}. Give the folder that contains them."
    )


def _open_hdf5(path: Path, reading: Reading) -> Dataset:
    """Open HDF5 files after one look in a process of its own: damaged ones can hang or end the one that reads them."""
    check_once(path, reading)
    return open_hdf5(path, reading)


def _looks_like_rlds(folder: Path) -> bool:
    """RLDS folders are given as `name/config/version`, or as a folder above it; index files in hidden folders are none."""
    found = (
        path
        for depth in ("", "*/", "*/*/", "*/*/*/")
        for name in ("features.json", "*.tfrecord*")
        for path in folder.glob(f"{depth}{name}")
    )
    return any(not path.parent.name.startswith(".") for path in found)
