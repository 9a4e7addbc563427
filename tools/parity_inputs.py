"""Answers of the parity tool for what happens before the network: images, and actions as ids."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from parity_fixture import Answers, Fixture
from PIL import Image

from ideomotor.data.resize import Fit, Letterbox, Naive, ResizeCrop, fit, scaled
from ideomotor.model.config import Vocabulary
from ideomotor.tokenize.bins import UniformBins


def open_image(path: Path) -> np.ndarray:
    """Return an image file as uint8 [H, W, 3]."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


class ImageProcessor:
    """The image processor that `preprocessor_config.json` describes: sizes, strategies and the two sets of mean and std."""

    def __init__(self, checkpoint: Path) -> None:
        config: dict[str, Any] = json.loads((checkpoint / "preprocessor_config.json").read_text(encoding="utf-8"))
        self.strategy: str = config["image_resize_strategy"]
        self.size = int(config["input_sizes"][0][-1])
        self.exact = list(zip(config["means"], config["stds"], strict=True))
        self.published = [(tower["mean"], tower["std"]) for tower in config["tvf_normalize_params"]]

    def fit(self, strategy: str) -> Fit:
        """Return a strategy by its name in the configuration."""
        last_mean = self.exact[-1][0]
        fill = (int(255 * last_mean[0]), int(255 * last_mean[1]), int(255 * last_mean[2]))
        return {"resize-naive": Naive(), "resize-crop": ResizeCrop(), "letterbox": Letterbox(fill)}[strategy]

    def square(self, image: np.ndarray) -> np.ndarray:
        """Return an image as the checkpoint's own strategy fits it, uint8 [S, S, 3]."""
        return fit(image, self.fit(self.strategy), self.size)


class Preprocessing:
    """`preprocess.npz`: images by strategy, size, and set of mean and std; an image is a sample's or in the file itself."""

    def __init__(self, fixture: Fixture, file: str) -> None:
        self.fixture, self.sources = fixture, fixture.arrays(file)
        self.processor = ImageProcessor(fixture.checkpoint)

    @property
    def answers(self) -> Answers:
        """What there is an answer to."""
        start = r"(?P<image>[^.]+)\.(?P<strategy>[a-z-]+)(?:\.(?P<size>\d+))?"
        return {
            start + r"\.uint8": self.levels,
            start + r"\.(?P<scale>published|exact)(?:\.every(?P<step>\d+)th)?": self.values,
        }

    def levels(self, image: str, strategy: str, size: str | None) -> np.ndarray:
        """Return the fitted image, uint8."""
        source = self.sources.get(f"{image}.source_uint8")
        if source is None:
            source = open_image(self.fixture.folder / "inputs" / self.fixture.samples[image]["image"])
        return fit(source, self.processor.fit(strategy), int(size or self.processor.size))

    def values(self, image: str, strategy: str, size: str | None, scale: str, step: str | None) -> np.ndarray:
        """Return the scaled image, one tower's channels after the other's."""
        square = self.levels(image, strategy, size)
        towers = self.processor.published if scale == "published" else self.processor.exact
        whole = np.concatenate([scaled(square, tuple(mean), tuple(std)) for mean, std in towers])
        return whole[:, :: int(step or 1), :: int(step or 1)]


class ActionTokens:
    """`action_tokenizer.npz`: values to ids and back, NaN and infinities among them, which only the unchecked encoder takes."""

    def __init__(self, fixture: Fixture, file: str, vocabulary: Vocabulary) -> None:
        self.given, self.vocabulary = fixture.arrays(file), vocabulary
        self.bins = UniformBins(vocabulary.actions_end)

    @property
    def answers(self) -> Answers:
        """What there is an answer to."""
        return {
            r"nan\.ids": lambda: self.bins.encode_unchecked(np.full(self.given["nan.ids"].shape, np.nan)),
            r"(?P<name>[^.]+)\.ids": lambda name: self.bins.encode_unchecked(self.given[f"{name}.values"]),
            r"(?P<name>[^.]+)\.decoded": lambda name: self.bins.decode(
                self.bins.encode_unchecked(self.given[f"{name}.values"])
            ),
            r"(?P<name>[^.]+)\.values": lambda name: self.bins.decode(self.given[f"{name}.ids"]),
            r"bin_edges": lambda: self.bins.edges,
            r"bin_centers": self.centres,
            r"action_token_begin_idx": lambda: self.vocabulary.actions_first - 1,
        }

    def centres(self) -> np.ndarray:
        """Return what the ids stand for, lowest action first; the last id shares the centre of the one before."""
        return self.bins.decode(self.bins.vocabulary - np.arange(1, len(self.bins.edges)))
