"""Draw 100,000 samples with worker processes and record the memory of all of them: a picture, and the slope.

    .venv/bin/python tools/loader_memory.py [--picture docs/pictures/loader-memory.png]

The data are an RLDS-like mixture made for the purpose: three sources with JPEG images of 256 px, decoded at every access, one of them with
memory-mapped columns, batches of 64 in two workers. Counted is anonymous and shared memory of the process and its workers (Pss: what
is shared counts once); pages of mapped files are the system's to take back.
"""

import os

os.environ.update({name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")})

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import simplejpeg

from ideomotor.core.spec import Camera, Embodiment
from ideomotor.core.types import Success
from ideomotor.data.columns import open_columns, wanted_columns
from ideomotor.data.dataset import EpisodeView, Feature
from ideomotor.data.images import Jitter, decode
from ideomotor.data.loader import Loader, LoaderConfig
from ideomotor.data.memory import Memory, stated
from ideomotor.data.windows import WindowSource, stack

SAMPLES, BATCH, WORKERS, SIDE = 100_000, 64, 2, 256
EVERY = 10  # batches between two looks
FLAT = 0.05  # of the memory: growth below this over the whole run is none


class Recordings:
    """Episodes whose frames are one of a few JPEGs; travels to workers as its numbers."""

    format = "made up"
    fps: float | None = 10.0
    embodiment: Embodiment | None = None

    def __init__(self, name: str, episodes: int, length: int, width: int) -> None:
        self.path, self.episodes, self.frames, self.width = Path(name), episodes, length, width
        self.cameras: Mapping[str, Camera] = {"front": Camera("front", SIDE, SIDE)}
        self.features: Mapping[str, Feature] = {
            name: Feature(name, "float32", (width,)) for name in ("action", "observation.state")
        }
        self.splits: Mapping[str, range] = {}
        self.content_hash = f"{name} {episodes} {length} {width}"
        rng = np.random.default_rng(width)
        noise = rng.integers(0, 256, (8, SIDE // 8, SIDE // 8, 3), dtype=np.uint8)
        self.files = [simplejpeg.encode_jpeg(np.repeat(np.repeat(n, 8, 0), 8, 1).copy(), quality=90) for n in noise]

    def __len__(self) -> int:
        return self.episodes

    def __getitem__(self, episode: int) -> EpisodeView:
        return EpisodeView(self, episode)

    def length(self, episode: int) -> int:  # noqa: ARG002
        """Every episode is as long."""
        return self.frames

    def instruction(self, episode: int) -> str:
        """Each has words of its own."""
        return f"put the object {episode} of {self.path} into the bowl"

    def success(self, episode: int) -> Success:  # noqa: ARG002
        """Nobody knows."""
        return "unknown"

    def column(self, episode: int, name: str) -> np.ndarray:  # noqa: ARG002
        """Any numbers."""
        return np.random.default_rng(episode).normal(size=(self.frames, self.width)).astype(np.float32)

    def image(self, episode: int, frame: int, camera: str) -> np.ndarray:  # noqa: ARG002
        """Decoded each time."""
        return decode(self.files[(episode + frame) % len(self.files)])


def main() -> None:
    """Run, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, default=Path("docs/pictures/loader-memory.png"))
    parser.add_argument("--samples", type=int, default=SAMPLES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        large = Recordings("large", 2000, 300, 7)
        store = open_columns(large, wanted_columns(large), Path(name))
        small = [Recordings("middle", 200, 250, 7), Recordings("small", 20, 40, 7)]
        sources = [WindowSource(large, 8, store=store), *(WindowSource(each, 8) for each in small)]
        loader = Loader(sources, [0.6, 0.3, 0.1], LoaderConfig(BATCH, workers=WORKERS, augment=Jitter()), stack)
        memory = stated(loader, loader.batch(0))
        print(memory.sentence)
        drawn, held = run(loader, options.samples)
    settled = drawn >= len(drawn) // 10 * EVERY * BATCH  # the first tenth fills caches
    x, y = drawn[settled] - drawn[settled].mean(), held[settled] - held[settled].mean()
    slope = float(x @ y / (x @ x))
    error = float(np.sqrt(np.mean((y - slope * x) ** 2) / (x @ x)))
    flat = abs(slope) * drawn[-1] < FLAT * held[settled].mean()
    print(
        f"{drawn[-1]} samples, {1 + WORKERS} processes: {held[settled].mean() / 1e6:.1f} MB, range"
        f" {np.ptp(held[settled]) / 1e6:.1f} MB, slope {slope:.0f} +- {error:.0f} bytes a sample ({'flat' if flat else 'GROWS'})"
    )
    draw(drawn, held, memory, slope, options.picture)


def run(loader: Loader, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return after how many samples was looked, and the memory of all processes then [bytes]."""
    drawn: list[int] = []
    held: list[int] = []
    for step, batch in enumerate(loader.batches(0, stop=samples // BATCH)):
        assert len(batch["sample"]) == BATCH
        if step % EVERY == EVERY - 1:
            drawn.append((step + 1) * BATCH)
            held.append(sum(held_by(pid) for pid in family()))
    return np.array(drawn), np.array(held)


def family() -> list[int]:
    """Return this process and all that descend from it (workers are children of the fork server)."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:
            continue  # it has just ended
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def held_by(pid: int) -> int:
    """Return the memory that a process holds by itself, and its part of what it shares [bytes]."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))


def draw(drawn: np.ndarray, held: np.ndarray, memory: Memory, slope: float, path: Path) -> None:
    """Draw the memory over the samples."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(drawn, held / 1e6, linewidth=1.2)
    axes.set_ylim(0, 1.25 * held.max() / 1e6)
    axes.set_xlabel("samples drawn")
    axes.set_ylabel("memory [MB]")
    axes.set_title(
        f"Loader and {WORKERS} workers: slope {slope:.0f} bytes a sample; {memory.total / 1e6:.0f} MB stated beside Python",
        fontsize=9,
    )
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(path)


if __name__ == "__main__":
    main()
