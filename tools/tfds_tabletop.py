"""Write the episodes of tests/data/files/tabletop/episodes.py as RLDS, with TFDS and without shuffling: test data.

    .venv/bin/python tools/tfds_tabletop.py build/peers/tfds/bin/python tests/data/files/tabletop

The second half of this file runs in TFDS's environment, where Ideomotor is not installed.
"""

import importlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def main(peer: str, out: str) -> None:
    """Start the half that writes."""
    subprocess.run([peer, __file__, "--inside", out], check=True)


def inside(out: Path) -> None:
    """Write them."""
    import numpy as np
    import tensorflow_datasets as tfds

    sys.path.insert(0, str(out))
    made: Any = importlib.import_module("episodes")
    features = tfds.features
    views = {name: features.Image(shape=(made.SIZE, made.SIZE, 3), encoding_format="png") for name in made.CAMERAS}
    step = {
        "observation": {"state": features.Tensor(shape=(7,), dtype=np.float32), **views},
        "action": features.Tensor(shape=(7,), dtype=np.float32),
        "language_instruction": features.Text(),
        **{name: features.Scalar(dtype=np.bool_) for name in ("is_first", "is_last", "is_terminal")},
    }

    class Tabletop(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        name = "tabletop"

        def _info(self) -> Any:
            declared = features.FeaturesDict({"steps": features.Dataset(step)})
            return tfds.core.DatasetInfo(builder=self, features=declared, disable_shuffling=True)

        def _split_generators(self, dl_manager: Any) -> Any:  # noqa: ARG002  TFDS calls it so
            return {"train": self._generate_examples()}

        def _generate_examples(self) -> Any:
            for e, length in enumerate(made.LENGTHS):
                state, action = made.state(e), made.action(e)
                yield (
                    e,
                    {
                        "steps": [
                            {
                                "observation": {
                                    "state": state[t],
                                    **{name: made.image(e, t, c) for c, name in enumerate(made.CAMERAS)},
                                },
                                "action": action[t],
                                "language_instruction": "",
                                "is_first": t == 0,
                                "is_last": t == length - 1,
                                "is_terminal": t == length - 1,
                            }
                            for t in range(length)
                        ]
                    },
                )

    with tempfile.TemporaryDirectory() as folder:
        builder = Tabletop(data_dir=folder)
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        target = out / "rlds" / "tabletop" / "1.0.0"
        shutil.rmtree(out / "rlds", ignore_errors=True)
        shutil.copytree(builder.data_path, target)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(Path(sys.argv[2]))
    else:
        main(*sys.argv[1:])
