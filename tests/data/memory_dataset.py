"""A dataset in memory for tests: every value tells its episode and frame. And encoders that worker processes can import."""

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np

from ideomotor.core.spec import Camera
from ideomotor.data.dataset import EpisodeView, Feature
from ideomotor.data.windows import stack


class MemoryDataset:
    """Action (episode, frame), state 100 * frame, image grey 10 * episode + frame."""

    path = Path("memory")
    format = "memory"
    fps = 10.0
    embodiment = None

    def __init__(self, lengths, expert_steps=0, labels=None):
        self.lengths = lengths
        self.cameras = {"front": Camera("front", 6, 8)}
        self.expert_steps = expert_steps
        self.splits = {"train": range(len(lengths))}
        self.content_hash = f"{lengths}-{expert_steps}"
        widths = {"action": 2, "observation.state": 1, **(labels or {})}
        if expert_steps:
            widths["expert.chunk"] = 2 * expert_steps
        self.features = {name: Feature(name, "float32", (width,)) for name, width in widths.items()}

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, episode):
        return EpisodeView(self, episode)

    def length(self, episode):
        return self.lengths[episode]

    def instruction(self, episode):
        return f"do {episode}"

    def success(self, episode):
        return "unknown"

    def column(self, episode, name):
        frames = np.arange(self.lengths[episode], dtype=np.float32)
        if name == "action":
            return np.stack([np.full_like(frames, episode), frames], axis=1)
        if name == "observation.state":
            return 100 * frames[:, None]
        if name == "expert.chunk":
            steps = np.arange(self.expert_steps, dtype=np.float32)
            chunks = np.stack(np.broadcast_arrays(100 * frames[:, None] + steps, -steps), axis=-1)
            return chunks.reshape(len(frames), 2 * self.expert_steps)
        return np.repeat(frames[:, None], self.features[name].shape[0], axis=1)

    def image(self, episode, frame, camera):
        assert camera == "front"
        image = np.full((6, 8, 3), (10 * episode + frame) % 256, np.uint8)
        image[0, 0] = (255, 0, 0)
        return image


class Suicidal(MemoryDataset):
    """Kills the process that reads the second episode."""

    def image(self, episode, frame, camera):
        if episode == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().image(episode, frame, camera)


def explode(windows):
    """An encoder that fails in worker processes alone."""
    if multiprocessing.current_process().name == "loader":
        raise ZeroDivisionError("boom")
    return stack(windows)


def grow(windows):
    """An encoder whose later batches can be far larger than its first."""
    length = 10 if windows[0].instruction == "do 0" else 100_000
    return {"text": np.full((len(windows), length), len(windows))}
