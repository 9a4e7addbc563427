"""`ideomotor demo`: the whole loop in a few minutes, ending with one report."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from ideomotor.collect.config import CollectConfig
from ideomotor.evaluate.config import EvalConfig
from ideomotor.train.config import TrainConfig

if TYPE_CHECKING:
    from ideomotor.evaluate.measure import Evaluation

SCENES = 400_000  # first seed of the demo's scenes: apart from those of the recipe and from those kept for final measurements
DEMONSTRATIONS = 410_000  # first seed of the fresh demonstrations
PICTURES = 6  # of the dataset in the report
PARTS = {
    "1-before",
    "2-demonstrations",
    "2-demonstrations.html",
    "3-fine-tuned",
    "4-after",
    "report.html",
}  # of a demo's folder


@dataclass(frozen=True)
class DemoConfig:
    """Run the shipped policy, collect demonstrations, fine-tune on them, evaluate again on the same scenes, and report."""

    out: Path = Path("build/demo")
    """Folder for everything that the demo makes; an earlier demo there is replaced."""
    policy: str = "shipped"
    """Policy to begin with: shipped, or a policy folder."""
    episodes: int = 20
    """Evaluation episodes, half of them of each task."""
    demonstrations: int = 40
    """Fresh demonstrations to collect."""
    minutes: float = 2.0
    """Duration of the fine-tuning."""


def main(arguments: list[str]) -> None:
    """Parse the command line, and run the five parts."""
    demo(tyro.cli(DemoConfig, prog="ideomotor demo", args=arguments))


def demo(config: DemoConfig) -> None:
    """Run the demo."""
    import shutil

    _check(config)
    start = time.monotonic()
    shutil.rmtree(config.out, ignore_errors=True)
    minutes = config.minutes + 3
    print(
        f"Five steps on the embedded tabletop, about {minutes:.0f} minutes. Tabletop numbers do not predict real robots."
    )
    _say("1/5", start, f"the policy '{config.policy}' runs {config.episodes} episodes")
    before = _evaluate(config, config.policy, "1-before")
    _say("2/5", start, f"{config.demonstrations} fresh demonstrations are collected and checked")
    data = _collect(config)
    _say("3/5", start, f"the policy is fine-tuned on them for {config.minutes:g} minutes")
    tuned = _fine_tune(config, data)
    _say("4/5", start, f"the fine-tuned policy runs the same {config.episodes} scenes")
    after = _evaluate(config, str(tuned), "4-after")
    _say("5/5", start, "the report is written")
    report = _report(config, before, after, data)
    print(f"done in {(time.monotonic() - start) / 60:.1f} minutes")
    print(report)


def _check(config: DemoConfig) -> None:
    from ideomotor.core.errors import UsageError

    least = {
        "--episodes": (config.episodes, 2),
        "--demonstrations": (config.demonstrations, 2),
        "--minutes": (config.minutes, 0.1),
    }
    for name, (value, low) in least.items():
        if value < low:
            raise UsageError(f"{name} is {value}; allowed are numbers from {low} up")
    if config.out.exists() and not config.out.is_dir():
        raise UsageError(f"--out {config.out} is a file; give a folder, or a name that is free")
    if config.out.is_dir() and (others := {child.name for child in config.out.iterdir()} - PARTS):
        raise UsageError(
            f"--out {config.out} holds something else than a demo ({min(others)}), which would be deleted; give another folder"
        )


def _say(part: str, start: float, text: str) -> None:
    print(f"\n[{part}, {time.monotonic() - start:.0f} s] {text}", flush=True)


def _evaluate(config: DemoConfig, policy: str, name: str) -> "Evaluation":
    from ideomotor.cli.eval import evaluated
    from ideomotor.evaluate.report import save_evaluation, summary

    tasks = ("pick", "place_on")
    job = EvalConfig(
        config.out / name, policy, tasks=",".join(tasks), episodes=config.episodes // len(tasks), seed=SCENES, videos=2
    )
    evaluation = evaluated(job)
    save_evaluation(job.out, evaluation.result, evaluation.clips)
    print(*summary(evaluation.result), sep="\n", flush=True)
    return evaluation


def _collect(config: DemoConfig) -> Path:
    from ideomotor.cli.collect import collect
    from ideomotor.cli.data import Check, Read, View, check, view

    folder = config.out / "2-demonstrations"
    collect(CollectConfig(str(folder), episodes=config.demonstrations, seed=DEMONSTRATIONS))
    check(Check(folder, Read()))
    print(f"page: {view(View(folder, Read(), config.out / '2-demonstrations.html'))}")
    return folder


def _fine_tune(config: DemoConfig, data: Path) -> Path:
    from ideomotor.train.loop import train

    return train(
        TrainConfig(
            data=str(data),
            out=str(config.out / "3-fine-tuned"),
            init=config.policy,
            max_minutes=config.minutes,
            steps=100_000,  # as many as the minutes allow
            batch=64,
            learning_rate=1e-4,  # small: forty demonstrations should not undo thousands
            warm_up=20,
            validation_share=0.1,
            eval_every=100,
            word_dropout=0.1,
        )
    )


def _report(config: DemoConfig, before: "Evaluation", after: "Evaluation", data: Path) -> Path:
    from ideomotor.data.opening import open_dataset
    from ideomotor.evaluate.page import Section, write_report
    from ideomotor.evaluate.report import comparison_section, curve_section, picture_section, result_sections

    dataset = open_dataset(data)
    shown = [dataset[i * len(dataset) // PICTURES] for i in range(PICTURES)]
    frames = [(dict(episode[len(episode) // 2]["images"]), episode.instruction) for episode in shown]
    sections = [
        comparison_section(before.result, after.result, (Path(config.policy).name, "fine-tuned")),
        curve_section(
            "Fine-tuning", config.out / "3-fine-tuned" / "curves.png", "losses over the steps of the fine-tuning"
        ),
        picture_section(f"The {len(dataset)} fresh demonstrations, some instants", frames),
    ]
    for name, evaluation in (("Before", before), ("After", after)):
        sections += [
            Section(f"{name}: {section.title}" if section.title else "", section.parts)
            for section in result_sections(evaluation.result, evaluation.clips)
        ]
    path = config.out / "report.html"
    write_report(path, "Ideomotor demo: a policy before and after fine-tuning", sections)
    return path
