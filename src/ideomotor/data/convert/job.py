"""Convert a dataset of any format to LeRobotDataset v3.0 or v2.1: raw values, every frame, images as they are stored.

The work happens in a hidden folder beside the target, which takes the target's name once all is there. Killed and started again with
the same command, it goes on after the episodes that were finished, and ends with the same bytes.
"""

import fcntl
import os
import shutil
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm import tqdm

from ideomotor.core import files
from ideomotor.core.errors import UserError, unknown
from ideomotor.data.convert.episode import ConvertedEpisode, convert_episode, write_videos
from ideomotor.data.convert.names import NAMES_PATH
from ideomotor.data.convert.plan import Plan, make_plan
from ideomotor.data.convert.video_writer import BOUND, describe_video
from ideomotor.data.dataset import Dataset, Feature
from ideomotor.data.lerobot.episode import EncodedEpisode, episode_bytes
from ideomotor.data.lerobot.episodes import RECORDING
from ideomotor.data.lerobot.form import Form
from ideomotor.data.lerobot.info import VIDEO_PATH
from ideomotor.data.lerobot.v2_tables import V2_VIDEO_PATH
from ideomotor.data.lerobot.v2_writer import LeRobotV21Writer
from ideomotor.data.lerobot.writer import CHUNK, DatasetWriter

Target = Literal["lerobot-v3", "lerobot-v2.1"]
JOB_PATH = "meta/conversion.json"  # what is converted to what; in the result it says how
REPORTS = "meta/.reports"  # what happened to the images of each episode, until all are done
LONGEST_VIDEO = 1000.0  # [s]; lerobot compares times as float32, too coarse above 1,024 s


class LeRobotV3Writer:
    """`DatasetWriter` for converted episodes; one mp4 for each episode and camera."""

    def __init__(self, folder: Path, form: Form, features: tuple[Feature, ...]) -> None:
        """Begin, or go on after the episodes that are complete."""
        self._writer, self._features, self._fps = DatasetWriter(folder, form), features, form.fps
        self._videos = [camera.key for camera in form.cameras if camera.video]

    @property
    def num_episodes(self) -> int:
        """Episodes that are complete on disk."""
        return self._writer.num_episodes

    def video_path(self, key: str) -> Path:
        """Return where the next episode's video of a camera belongs."""
        chunk, file = divmod(self.num_episodes, CHUNK)
        return self._writer.folder / VIDEO_PATH.format(video_key=key, chunk_index=chunk, file_index=file)

    def add(self, episode: ConvertedEpisode) -> None:
        """Write the next episode; when this returns, it survives a crash."""
        chunk, file = divmod(self.num_episodes, CHUNK)
        length = len(episode.table)
        columns: dict[str, int | float] = {}
        for key in self._videos:
            columns |= {f"videos/{key}/chunk_index": chunk, f"videos/{key}/file_index": file}
            columns |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": length / self._fps}
        instruction = episode.spans[0][0]
        row: dict[str, Any] = {"instruction": instruction, "success": episode.success, "stats": episode.stats}
        row |= {"spans": episode.spans, "columns": columns}
        content = episode_bytes(episode.table, row)
        self._writer.add_encoded(
            EncodedEpisode(content, self._writer.embodiment, self._features, instruction, episode.success, length)
        )

    def close(self) -> None:
        """Join the episodes into large files, and write statistics and totals."""
        self._writer.close()

    def abandon(self) -> None:
        """Leave the episodes for the next writer."""
        self._writer.abandon()


@dataclass(frozen=True)
class Converted:
    """What came of a conversion."""

    episodes: int
    frames: int
    longest: int  # [frames] of an episode
    videos: Mapping[
        str, Mapping[str, Any]
    ]  # by camera column: episodes copied and encoded, smallest PSNR of a frame [dB]
    missing: int  # images that the source lacks, written black
    plan: Plan


def convert_folder(dataset: Dataset, out: Path, target: str, *, video: bool = False, fps: float | None = None) -> str:
    """Convert a dataset, and return in a few sentences what was written and what was lost.

    Raises:
        UserError: as in `convert`, or an unknown target.
    """
    for known in get_args(Target):
        if target == known:
            return _sentences(convert(dataset, out, known, video=video, fps=fps), out, known)
    raise unknown("format", target, get_args(Target))


def convert(
    dataset: Dataset, out: Path, target: Target, *, video: bool = False, fps: float | None = None, progress: bool = True
) -> Converted:
    """Write a dataset to the folder `out`, or go on where a killed conversion to it stopped.

    Args:
        dataset: of any format.
        out: a folder that is new or empty.
        target: the format.
        video: images become videos, each frame within `BOUND` of its original; videos stay videos in any case.
        fps: frames a second [1/s], where the dataset does not say.
        progress: show a bar on the standard error output.

    Raises:
        UserError: `out` holds something, lies in the source, or is being written; the source is damaged; or no space.
    """
    _check_place(dataset.path, out)
    plan = make_plan(dataset, fps, video=video)
    job = {
        "source": dataset.format,
        "content_hash": dataset.content_hash,
        "target": target,
        "video": video,
        "fps": plan.fps,
    }
    work = out.resolve().with_name(f".{out.resolve().name}.converting")
    try:
        with _locked(work):
            if not _begin(work, job):
                _write(dataset, plan, work, target, progress=progress)
                files.write_json(work / JOB_PATH, {**job, **_report(work / REPORTS, plan)})
            result = files.read_json(work / JOB_PATH)
            for left in (REPORTS, RECORDING):
                shutil.rmtree(work / left, ignore_errors=True)
            if out.is_dir():
                out.rmdir()  # it is empty
            work.replace(out.resolve())
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror or error}); free some space or give another folder, then run the same"
            " command again: it goes on"
        ) from error
    lengths = [dataset.length(episode) for episode in plan.episodes]
    return Converted(
        len(lengths), sum(lengths), max(lengths, default=0), result["videos"], result["black_images"], plan
    )


def _check_place(source: Path, out: Path) -> None:
    here, there = source.resolve(), out.resolve()
    if there == here or there.is_relative_to(here):
        raise UserError(f"{out} lies in the dataset that is converted; give a folder elsewhere")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and holds something; give a folder that is new or empty")


@contextmanager
def _locked(work: Path) -> Generator[None]:
    work.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(work, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UserError(f"{work} is being written by another process; wait for it, or give another folder") from error
    finally:
        os.close(descriptor)


def _begin(work: Path, job: Mapping[str, Any]) -> bool:
    """Go on with the same job, or begin anew; return whether everything is written already."""
    path = work / JOB_PATH
    if path.is_file() and (before := files.read_json(path)).items() >= job.items():
        for left in work.rglob(".*.tmp"):
            left.unlink()
        return "videos" in before
    held = [child for child in work.iterdir() if child.name != "meta"]
    if held and not path.is_file():
        raise UserError(f"{work} holds something that no conversion wrote; move it away")
    for child in work.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    files.write_json(path, job)
    return False


def _write(dataset: Dataset, plan: Plan, work: Path, target: Target, *, progress: bool) -> None:
    form = Form(plan.fps, plan.robot, plan.cameras, plan.embodiment)
    writer = (LeRobotV3Writer if target == "lerobot-v3" else LeRobotV21Writer)(work, form, plan.features)
    try:
        _write_episodes(dataset, plan, work, writer, progress=progress)
        writer.close()
    except BaseException:
        writer.abandon()
        raise
    _finish(work, plan, target)


def _write_episodes(
    dataset: Dataset, plan: Plan, work: Path, writer: LeRobotV3Writer | LeRobotV21Writer, *, progress: bool
) -> None:
    lengths = [dataset.length(episode) for episode in plan.episodes]
    done = writer.num_episodes
    (work / REPORTS).mkdir(parents=True, exist_ok=True)
    with tqdm(
        total=sum(lengths), initial=sum(lengths[:done]), desc=f"convert {dataset.path.name}", unit=" frames", file=sys.stderr,
        disable=not progress,
    ) as bar:  # fmt: skip
        for number in range(done, len(lengths)):
            encoded = write_videos(dataset, plan, plan.episodes[number], writer.video_path)
            converted, missing = convert_episode(dataset, plan, plan.episodes[number])
            files.write_json(work / REPORTS / f"{number:06d}.json", {"psnr": _finite(encoded), "missing": missing})
            writer.add(converted)
            bar.update(lengths[number])


def _finish(work: Path, plan: Plan, target: Target) -> None:
    """Add what the writers do not know: what the videos are, the splits, the original names."""
    path = work / "meta" / "info.json"
    info = files.read_json(path)
    template = VIDEO_PATH if target == "lerobot-v3" else V2_VIDEO_PATH
    for view in plan.views:
        if view.feature.video and plan.episodes:
            key = view.feature.key
            first = template.format(video_key=key, chunk_index=0, file_index=0, episode_chunk=0, episode_index=0)
            described = describe_video(work / first, plan.fps)
            depth = {k: v for k, v in view.info.items() if k not in described or k == "video.is_depth_map"}
            info["features"][key]["info"] = {**described, **depth}
    if plan.splits:
        info["splits"] = {name: f"{split.start}:{split.stop}" for name, split in plan.splits.items()}
    files.write_json(path, info)
    if plan.names:
        files.write_json(work / NAMES_PATH, plan.names.to_json())


def _report(reports: Path, plan: Plan) -> dict[str, Any]:
    """Return what happened to the images, over all episodes."""
    read = [files.read_json(path) for path in sorted(reports.glob("*.json"))]
    videos: dict[str, Any] = {}
    for key in (view.feature.key for view in plan.views if view.feature.video):
        found = [report["psnr"][key] for report in read if key in report["psnr"]]
        smallest = min((value for value in found if value is not None), default=None)
        videos[key] = {"copied": len(read) - len(found), "encoded": len(found), "smallest_psnr_db": smallest}
    return {"videos": videos, "black_images": sum(report["missing"] for report in read)}


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return what JSON can hold: no value where every frame is equal to its original."""
    return {key: None if value == float("inf") else value for key, value in values.items()}


def _sentences(done: Converted, out: Path, target: Target) -> str:
    plan = done.plan
    parts = [f"{out}: {target}, {done.episodes} episodes, {done.frames} frames at {plan.fps:g} frames/s."]
    stored = [view.feature.key for view in plan.views if not view.feature.video]
    if stored:
        parts.append(f"Images without loss, stored files as they are and other pixels as PNG: {', '.join(stored)}.")
    for key, video in done.videos.items():
        if video["copied"]:
            parts.append(f"Video copied packet by packet: {key} ({video['copied']} episodes).")
        if video["encoded"]:
            worst = video["smallest_psnr_db"]
            found = "all are equal" if worst is None else f"the worst lies at {worst:.1f} dB"
            parts.append(
                f"Video encoded: {key} ({video['encoded']} episodes), each frame at least {BOUND:g} dB from its original"
                f" ({found})."
            )
    if renamed := {here: o.name for here, o in (plan.names.columns if plan.names else {}).items() if o.name != here}:
        listed = ", ".join(f"{old} -> {here}" for here, old in list(renamed.items())[:4])
        more = f" and {len(renamed) - 4} more" if len(renamed) > 4 else ""
        parts.append(f"Renamed ({NAMES_PATH} has all): {listed}{more}.")
    if done.missing:
        parts.append(f"{done.missing} images that the source lacks are black.")
    parts += [f"{loss[:1].upper()}{loss[1:]}." for loss in plan.losses]
    if done.longest / plan.fps > LONGEST_VIDEO and len(stored) < len(plan.views):
        parts.append(f"An episode lasts more than {LONGEST_VIDEO:.0f} s, of whose video lerobot misses frames.")
    if target == "lerobot-v2.1" and stored:
        parts.append("GR00T reads videos only: convert with --video for it.")
    return " ".join(parts)
