"""Damage small valid datasets at random and read them: only a `UserError` may come out, within time and memory.

    .venv/bin/python tools/fuzz_formats.py --out build/fuzz.jsonl [--formats hdf5-aloha features.json] [--count 1000]

Without `--count` it is 100,000 examples a format, 10,000 for parquet and HDF5, which run in a child process. Example n of a
format is always the same, so that a line of the result file is its own reproduction (`--only FORMAT:N`); a second run with the
same `--out` goes on where the first ended.
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).parent
sys.path[:0] = [str(TOOLS), str(TOOLS.parent / "tests" / "data")]

Op = tuple[int, int, int]  # kind, place, value; any integers are valid

SLOW = 5.0  # [s] of one example; all take milliseconds
GROWTH = 1 << 30  # [bytes] by which the memory of a run may grow
EPISODES, FRAMES = 6, 3  # that are read of what a damaged file claims

NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
WORDS = (
    b"null", b"-1", b"0", b"1e999", b"NaN", b"[]", b"{}", b'""', b"true", b"9" * 30, b"9" * 5000, b'"\\ud800"', b"1.5",
    b'"../../../../etc/passwd"', b'"{x}"', b'"' + b"a" * 3000 + b'"', b"[" * 3000, b'[["a"]]', b"[1,2,3]", b'"-1"', b'"1"',
    b'"uint128"', b'"float64"', b'{"a":{"a":{}}}', b'"\\u0000"', b"\xff\xfe", b"18446744073709551616",
)  # fmt: skip

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*|true|false|null')


def mutate(content: bytes, ops: Sequence[Op]) -> bytes:
    """Apply each operation in turn; places and values wrap around, so that any integers do."""
    for kind, place, value in ops:
        size = len(content)
        at = place % (size + 1)
        match kind % 8:
            case 0:  # flip a bit
                content = (
                    content[:at] + bytes([content[at] ^ 1 << value % 8]) + content[at + 1 :] if at < size else content
                )
            case 1:  # set a byte
                content = content[:at] + bytes([value % 256]) + content[at + 1 :]
            case 2:  # cut the end off
                content = content[:at]
            case 3:  # take bytes out
                content = content[:at] + content[at + 1 + value % 64 :]
            case 4:  # repeat a stretch elsewhere
                begin = value % (size + 1)
                content = content[:at] + content[begin : begin + 1 + value // 7 % 128] + content[at:]
            case 5 | 6:  # a number that may be a length, in 1, 2, 4 or 8 bytes
                width = 1 << value % 4
                number = NUMBERS[value // 4 % len(NUMBERS)] % (1 << 8 * width)
                content = content[:at] + number.to_bytes(width, "little") + content[at + width :]
            case _:  # a word of JSON in place of one that is there
                content = _replace_word(content, place, WORDS[value % len(WORDS)])
    return content


def _replace_word(content: bytes, place: int, word: bytes) -> bytes:
    """Replace one string, number or literal of a JSON text (of another file: what looks like one)."""
    found = list(_TOKEN.finditer(content))
    if not found:
        return content + word
    token = found[place % len(found)]
    return content[: token.start()] + word + content[token.end() :]


def drawn(name: str, number: int) -> list[Op]:
    """Return the operations of an example: one to four of them."""
    chance = random.Random(f"{name} {number}")
    return [
        (chance.randrange(8), chance.randrange(1 << 32), chance.randrange(1 << 32)) for _ in range(chance.randint(1, 4))
    ]


def exercise(dataset: Any) -> None:
    """Read what a program would: every column, some images, the texts, the hash."""
    _ = dataset.cameras, dataset.embodiment, dataset.fps, dataset.format
    _ = [list(split)[:3] for split in dataset.splits.values()]
    for episode in range(min(len(dataset), EPISODES)):
        length = dataset.length(episode)
        _ = dataset.instruction(episode), dataset.success(episode)
        for name in dataset.features:
            _ignoring_refusals(lambda name=name, episode=episode: dataset.column(episode, name))
        for camera in dataset.cameras:
            for frame in sorted({0, length // 2, length - 1} & set(range(length)))[:FRAMES]:
                _ignoring_refusals(lambda c=camera, e=episode, f=frame: dataset.image(e, f, c))
    _ = dataset.content_hash


def _ignoring_refusals(read: Callable[[], Any]) -> None:
    from ideomotor.core.errors import UserError

    try:
        read()
    except UserError as error:
        if len(str(error)) > 20_000:
            raise ValueError("an error that nobody can read") from None


def read_rlds(folder: str) -> None:
    """Open and read an RLDS dataset."""
    from ideomotor.data.rlds.dataset import RldsDataset

    exercise(RldsDataset(Path(folder)))


def read_lerobot(folder: str) -> None:
    """Open and read a LeRobotDataset v3.0."""
    from ideomotor.data.lerobot.v3 import LeRobotDataset

    dataset = LeRobotDataset(Path(folder))
    _ignoring_refusals(lambda: dataset.tasks)
    exercise(dataset)


def read_lerobot_v2(folder: str) -> None:
    """Open and read a LeRobotDataset v2.1."""
    from ideomotor.data.lerobot.v2 import LeRobotV2Dataset

    dataset = LeRobotV2Dataset(Path(folder))
    _ignoring_refusals(lambda: dataset.tasks)
    exercise(dataset)


def read_hdf5(folder: str) -> None:
    """Open and read HDF5 files of any of the three layouts."""
    from ideomotor.data.dataset import Reading
    from ideomotor.data.hdf5.files import open_hdf5

    exercise(open_hdf5(Path(folder), Reading(colour="bgr")))


@dataclass(frozen=True)
class Format:
    """A valid dataset, the file of it that is damaged, and how it is read."""

    write: Callable[[Path], Path]  # into an empty folder; returns the file
    read: Callable[[str], None]
    walled: bool = False  # read in a child process: a C library is at work
    wrap: Callable[[bytes], bytes] = bytes  # what follows the damage, e.g. a checksum that fits
    text: bool = False  # JSON: most damage replaces values, so that it is still JSON


def _write_rlds(folder: Path) -> Path:
    import rlds_writer

    return rlds_writer.write(folder, [rlds_writer.episode_record(e, n) for e, n in enumerate((2, 1))])


def _write_example(folder: Path) -> Path:
    """One record, damaged without its frame, so that the checksum fits and the parser is reached."""
    import rlds_writer

    shard = rlds_writer.write(folder, [rlds_writer.episode_record(1, 2)])
    shard.write_bytes(shard.read_bytes()[12:-4])
    return shard


def _framed(payload: bytes) -> bytes:
    import google_crc32c

    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")

    length = len(payload).to_bytes(8, "little")
    return length + masked(length) + payload + masked(payload)


def _rlds_file(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        _write_rlds(folder)
        return folder / name

    return write


def _lerobot_file(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        import foreign

        return foreign.write(folder) / name

    return write


def _lerobot_v2_file(name: str) -> Callable[[Path], Path]:
    """A v2.1 dataset of two episodes with images in the table, from arrow alone."""

    def write(folder: Path) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq
        import rlds_writer

        features = {
            "action": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
            "observation.state": {"dtype": "float32", "shape": [2], "names": None},
            "observation.images.top": {"dtype": "image", "shape": [8, 10, 3], "names": ["height", "width", "channel"]},
            **{
                key: {"dtype": "int64", "shape": [1]} for key in ("frame_index", "episode_index", "index", "task_index")
            },
            "timestamp": {"dtype": "float32", "shape": [1]},
        }
        info = {
            "codebase_version": "v2.1", "robot_type": "so100", "total_episodes": 2, "total_frames": 5, "total_tasks": 1,
            "total_videos": 0, "total_chunks": 1, "chunks_size": 1000, "fps": 10, "splits": {"train": "0:2"},
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "video_path": None, "features": features,
        }  # fmt: skip
        lengths = (3, 2)
        lines = {
            "tasks": [{"task_index": 0, "task": "pick it"}],
            "episodes": [{"episode_index": e, "tasks": ["pick it"], "length": n} for e, n in enumerate(lengths)],
            "episodes_stats": [
                {"episode_index": e, "stats": {"action": {k: [0.0, 1.0] for k in ("min", "max", "mean", "std")} | {"count": [n]}}}
                for e, n in enumerate(lengths)
            ],
        }  # fmt: skip
        (folder / "meta").mkdir(parents=True)
        (folder / "data" / "chunk-000").mkdir(parents=True)
        (folder / "meta" / "info.json").write_text(json.dumps(info))
        for part, rows in lines.items():
            (folder / "meta" / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for episode, length in enumerate(lengths):
            frames = list(range(length))
            images = [{"bytes": rlds_writer.png(rlds_writer.picture(episode, f)), "path": None} for f in frames]
            table = pa.table(
                {
                    "action": pa.array([[f, 1.0] for f in frames], pa.list_(pa.float32())),
                    "observation.state": pa.array([[f, 2.0] for f in frames], pa.list_(pa.float32())),
                    "observation.images.top": pa.array(
                        images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])
                    ),
                    "timestamp": pa.array([f / 10 for f in frames], pa.float32()),
                    "frame_index": frames,
                    "episode_index": [episode] * length,
                    "index": [3 * episode + f for f in frames],
                    "task_index": [0] * length,
                }
            )
            pq.write_table(table, folder / "data" / "chunk-000" / f"episode_{episode:06d}.parquet")
        return folder / name

    return write


def _write_robomimic(folder: Path) -> Path:
    import hdf5_writer

    return hdf5_writer.robomimic(folder / "a.hdf5", {0: 2, 1: 1}, {"train": ["demo_1"], "valid": ["demo_0"]})


def _write_libero(folder: Path) -> Path:
    import hdf5_writer

    return hdf5_writer.libero(folder / "open_it_demo.hdf5", {0: 5, 2: 4}, released=True)


def _aloha_file(images: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        import hdf5_writer

        return hdf5_writer.aloha(folder / "episode_0.hdf5", 3, images)

    return write


FORMATS: dict[str, Format] = {
    "tfrecord": Format(_write_rlds, read_rlds),
    "example": Format(_write_example, read_rlds, wrap=_framed),
    "features.json": Format(_rlds_file("features.json"), read_rlds, text=True),
    "dataset_info.json": Format(_rlds_file("dataset_info.json"), read_rlds, text=True),
    "info.json": Format(_lerobot_file("meta/info.json"), read_lerobot, text=True),
    "v2-info.json": Format(_lerobot_v2_file("meta/info.json"), read_lerobot_v2, text=True),
    "v2-tasks.jsonl": Format(_lerobot_v2_file("meta/tasks.jsonl"), read_lerobot_v2, text=True),
    "v2-episodes.jsonl": Format(_lerobot_v2_file("meta/episodes.jsonl"), read_lerobot_v2, text=True),
    "parquet-data": Format(_lerobot_v2_file("data/chunk-000/episode_000000.parquet"), read_lerobot_v2, walled=True),
    "parquet-episodes": Format(_lerobot_file("meta/episodes/chunk-000/file-000.parquet"), read_lerobot, walled=True),
    "parquet-tasks": Format(_lerobot_file("meta/tasks.parquet"), read_lerobot, walled=True),
    "hdf5-robomimic": Format(_write_robomimic, read_hdf5, walled=True),
    "hdf5-libero": Format(_write_libero, read_hdf5, walled=True),
    "hdf5-aloha": Format(_aloha_file("padded"), read_hdf5, walled=True),
    "hdf5-aloha-vlen": Format(_aloha_file("vlen"), read_hdf5, walled=True),
}


class Subject:
    """A format's valid dataset in a folder of its own, to be damaged again and again."""

    def __init__(self, name: str, folder: Path, seconds: float = 3.0) -> None:
        from ideomotor.data.child import Child

        self.name, self.format = name, FORMATS[name]
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        self.file = self.format.write(self.folder)
        self.content = self.file.read_bytes()
        self.child = Child(memory=2 << 30, seconds=seconds) if self.format.walled else None
        self.held = {path for path in self.folder.rglob("*")}

    def run(self, ops: Sequence[Op]) -> str:
        """Read the dataset with its file damaged; return "read" or "refused: why".

        Raises:
            Exception: whatever else came out: a fault.
        """
        from ideomotor.core.errors import UserError

        if self.format.text:
            ops = [(kind if kind % 5 == 0 else 7, place, value) for kind, place, value in ops]
        self.file.write_bytes(self.format.wrap(mutate(self.content, ops)))
        begin = time.perf_counter()
        try:
            if self.child is None:
                self.format.read(str(self.folder))
            else:
                self.child.call(self.format.read, str(self.folder), about=self.file)
            outcome = "read"
        except UserError as error:
            outcome = f"refused: {error}"
        took = time.perf_counter() - begin
        if took > SLOW and self.child is None:
            raise TimeoutError(f"took {took:.1f} s")
        strange = {path for path in self.folder.rglob("*") if ".ideomotor" not in path.parts} - self.held
        if strange:
            raise FileExistsError(f"files appeared: {strange}")
        return outcome

    def close(self) -> None:
        """End the child process."""
        if self.child is not None:
            self.child.close()


def memory() -> int:
    """Return the largest memory that this process has had [bytes]."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def fuzz(name: str, numbers: range, folder: Path, tell: Callable[[Mapping[str, Any]], None]) -> None:
    """Run the examples of a format; every fault, every death of the child and a summary every 1,000 are told."""
    subject = Subject(name, folder)
    counts = {"read": 0, "refused": 0, "faults": 0, "deaths": 0, "starved": 0, "slow": 0}
    base, begin, longest = memory(), time.monotonic(), 0.0
    try:
        for number in numbers:
            started = time.perf_counter()
            try:
                outcome = subject.run(drawn(name, number))
            except Exception:  # noqa: BLE001  that is what is looked for
                counts["faults"] += 1
                tell({"format": name, "number": number, "fault": traceback.format_exc()[-3000:]})
                continue
            longest = max(longest, time.perf_counter() - started)
            kind = outcome.partition(":")[0]
            for what, mark in (
                ("deaths", "ended the process"),
                ("starved", "MB of memory"),
                ("slow", "was not read after"),
            ):
                if mark in outcome:
                    counts[what] += 1
                    tell({"format": name, "number": number, what: outcome})
            counts[kind] += 1
            if (number + 1) % 1000 == 0 or number + 1 == numbers.stop:
                seconds = round(time.monotonic() - begin, 1)
                grown = memory() - base
                if grown > GROWTH:
                    tell({"format": name, "number": number, "fault": f"memory grew by {grown} bytes"})
                tell(
                    {
                        "format": name,
                        "done": number + 1,
                        **counts,
                        "seconds": seconds,
                        "longest": round(longest, 3),
                        "grown": grown,
                    }
                )
                counts, begin, longest = dict.fromkeys(counts, 0), time.monotonic(), 0.0
    finally:
        subject.close()


def done_before(path: Path) -> dict[str, int]:
    """Return how many examples of each format a result file has."""
    done: dict[str, int] = {}
    for row in rows(path):
        if "done" in row:
            done[row["format"]] = max(done.get(row["format"], 0), row["done"])
    return done


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the whole lines of a result file."""
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except ValueError:
            continue  # cut off when the run was ended


def main() -> int:
    """Run what the command line asks for; the exit code is 1 where faults were found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/fuzz.jsonl"))
    parser.add_argument("--formats", nargs="+", choices=list(FORMATS), default=list(FORMATS))
    parser.add_argument("--count", type=int, help="examples a format")
    parser.add_argument("--only", metavar="FORMAT:N", help="run one example and let its error through")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    try:
        if options.only:
            name, _, number = options.only.rpartition(":")
            subject = Subject(name, folder)
            print(subject.run(drawn(name, int(number))))
            subject.close()
            return 0
        options.out.parent.mkdir(parents=True, exist_ok=True)
        done = done_before(options.out)
        with options.out.open("a") as file:

            def tell(row: Mapping[str, Any]) -> None:
                file.write(json.dumps(row) + "\n")
                file.flush()
                print({key: value if key != "fault" else value.strip()[-300:] for key, value in row.items()})

            for name in options.formats:
                count = options.count or (10_000 if FORMATS[name].walled else 100_000)
                fuzz(name, range(done.get(name, 0), count), folder, tell)
        return int(any("fault" in row for row in rows(options.out)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    import fuzz_formats  # under its name, by which the child process finds the functions

    sys.exit(fuzz_formats.main())
