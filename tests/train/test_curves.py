from pathlib import Path

import numpy as np
from PIL import Image

from ideomotor.core.log import JsonLines
from ideomotor.train.curves import draw_curves


def test_a_picture_is_drawn_from_a_log_with_a_cut_last_line(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "log.jsonl")
    log.write(kind="start", steps=3)
    for step in (1, 2, 3):
        log.write(kind="train", step=step, loss=3.0 / step, learning_rate=1e-3, samples_per_s=100.0)
    log.write(kind="eval", step=3, loss=2.0, accuracy={"action": 0.5}, errors={"ee_delta_x [m]": 0.01})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1100, 700)
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 10
