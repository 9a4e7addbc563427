"""Fixtures for the parity tool, made of the one that is there: a part of it, the same under other names, and one of other sizes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ideomotor.model.config import (
    DiffusionHead,
    L1Head,
    LanguageConfig,
    OpenVLAConfig,
    Parallel,
    PatchStem,
    Tower,
    VisionConfig,
)
from ideomotor.model.oft_weights import write_oft
from ideomotor.model.openvla import OpenVLA, with_film
from ideomotor.model.openvla_weights import Origin, write_openvla
from ideomotor.model.tensors import InMemory

TOKENIZER = ("tokenizer.json", "LICENSE-LLAMA2.txt", "NOTICE")


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {key: file[key] for key in file.files}


# ------------------------------------------------------------------------------------------------------------ a part


def part(source: Path, out: Path, keys: tuple[str, ...]) -> Path:
    """The fixture with these arrays of expected.npz and nothing else."""
    out.mkdir()
    shutil.copy(source / "tolerances.json", out)
    for folder in ("checkpoint", "inputs"):
        (out / folder).symlink_to(source / folder)
    whole = arrays(source / "expected.npz")
    np.savez(out / "expected.npz", allow_pickle=False, **{key: whole[key] for key in keys})
    return out


# ------------------------------------------------------------------------------------------------------------ other names

ORDER = ("4", "2", "5")  # samples of the one fixture, which are 0, 1, 2 of the other
DATASETS = {"bridge_orig": "kitchen", "fixture_partial_mask": "arms", "fixture_ten_dims_no_mask": "long"}
VARIANT = ("rms_norm_eps_1e-5", "as_pretrained")


def renamed(source: Path, out: Path) -> Path:
    """Half of the samples in another order, other names of datasets, images and of the second configuration, one case of OFT.

    Every number is one of the reference, so the tool has to find all of them right.
    """
    (out / "checkpoint").mkdir(parents=True)
    (out / "inputs").mkdir()
    for path in (source / "checkpoint").iterdir():
        if not path.name.startswith(("config", "dataset_statistics")):
            (out / "checkpoint" / path.name).symlink_to(path)
    for old, new in (("config.json", "config.json"), (f"config_{VARIANT[0]}.json", f"config_{VARIANT[1]}.json")):
        config = read(source / "checkpoint" / old)
        config["norm_stats"] = {DATASETS[key]: value for key, value in config["norm_stats"].items()}
        write(out / "checkpoint" / new, config)
    rules = (source / "tolerances.json").read_text(encoding="utf-8")
    (out / "tolerances.json").write_text(rules.replace(VARIANT[0], VARIANT[1]), encoding="utf-8")
    samples = {str(sample["index"]): sample for sample in read(source / "inputs" / "inputs.json")}
    for path in (source / "inputs").glob("*.png"):
        (out / "inputs" / path.name.replace("image", "view")).symlink_to(path)
    write(
        out / "inputs" / "inputs.json",
        [
            {**samples[old], "index": new, "image": samples[old]["image"].replace("image", "view")}
            for new, old in enumerate(ORDER)
        ],
    )
    _renamed_arrays(source, out)
    _renamed_oft(source, out)
    return out


def _renumbered(whole: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    result: dict[str, np.ndarray] = {}
    for key, value in whole.items():
        number, _, rest = key.partition(".")
        for old, new in DATASETS.items():
            rest = rest.replace(old, new)
        if number in ORDER:
            result[f"{ORDER.index(number)}.{rest}"] = value
    return result


def _renamed_arrays(source: Path, out: Path) -> None:
    whole = _renumbered(arrays(source / "expected.npz"))
    rows = [(whole[f"{i}.train_input_ids"], whole[f"{i}.train_labels"]) for i in range(len(ORDER))]
    length = max(len(ids) for ids, _ in rows)
    whole["batch.input_ids"] = np.array([np.pad(ids, (0, length - len(ids)), constant_values=32000) for ids, _ in rows])
    whole["batch.labels"] = np.array([np.pad(y, (0, length - len(y)), constant_values=-100) for _, y in rows])
    whole["batch.attention_mask"] = whole["batch.input_ids"] != 32000
    whole["batch.loss"] = np.array(
        np.mean([whole[f"{i}.loss"] for i in range(len(ORDER))])
    )  # each has eight learned ids
    whole["batch.action_argmax"] = np.array([whole[f"{i}.teacher_argmax"][:-1] for i in range(len(ORDER))])
    np.savez(out / "expected.npz", allow_pickle=False, **whole)
    variant = _renumbered(arrays(source / f"expected_{VARIANT[0]}.npz"))
    np.savez(out / f"expected_{VARIANT[1]}.npz", allow_pickle=False, **variant)


def _renamed_oft(source: Path, out: Path) -> None:
    facts = read(source / "oft" / "expected.json")
    samples = {str(sample["index"]): sample for sample in facts["samples"]}
    views = ("image", "wrist_image")
    facts["samples"] = [
        {**samples[old], "index": new, **{v: samples[old][v].replace("image_", "view_") for v in views}}
        for new, old in enumerate(ORDER)
    ]
    write(out / "oft" / "expected.json", {"samples": facts["samples"], "constants": facts["constants"]})
    (out / "oft" / "l1").symlink_to(source / "oft" / "l1")
    golden = _renumbered(arrays(source / "oft" / "expected_l1.npz"))
    np.savez(out / "oft" / "expected_l1.npz", allow_pickle=False, **golden)


# ------------------------------------------------------------------------------------------------------------ other sizes

PATCHES, WIDTH, DEPTH, IDS = 4, 32, 2, 32064
HORIZON, NUMBERS, STATE, CAMERAS, STEPS = 3, 4, 5, 3, 6
SLOTS = HORIZON * NUMBERS
TOKENS = (
    18  # of the question: BOS, 9 before the instruction, 3 of it (the space before a digit is one), 4 behind it, 29871
)


def resized(source: Path, out: Path) -> Path:
    """One tower, another language model, letterbox, five samples; OFT with three cameras, another chunk and scaling by extremes.

    Nobody knows its numbers: every output is zeros of the shape that it must have.
    """
    vision = VisionConfig(PatchStem(14), 28, 24, 3, 2, 40, output_block=1, attention_pool=True)
    language = LanguageConfig(IDS, WIDTH, DEPTH, heads=4, kv_heads=2, mlp=48, rms_eps=1e-5)
    config = OpenVLAConfig((Tower(vision, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),), language)
    torch.manual_seed(0)
    statistics = {"gantry": _statistics(NUMBERS, STATE), "crane": _statistics(6, 6)}
    origin = Origin({"norm_stats": statistics}, {"image_resize_strategy": "letterbox"})
    write_openvla(config, InMemory(OpenVLA(config).state_dict()), out / "checkpoint", "hf", origin)
    towers = read(out / "checkpoint" / "vision_towers.json")
    write(out / "checkpoint" / "vision_towers.json", [{**towers[0], "role": "siglip"}])
    for name in TOKENIZER:
        (out / "checkpoint" / name).symlink_to(source / "checkpoint" / name)
    rules = (source / "tolerances.json").read_text(encoding="utf-8")
    (out / "tolerances.json").write_text(rules.replace("steps10", "steps3"), encoding="utf-8")
    (out / "inputs").mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        picture = rng.integers(0, 256, (20 + number, 31, 3), dtype=np.uint8)
        Image.fromarray(picture).save(out / "inputs" / f"{number}.png")
    labels = rng.uniform(-1, 1, (5, 4)).tolist()
    write(
        out / "inputs" / "inputs.json",
        [{"image": f"{i}.png", "instruction": f"Task {i}", "action_label": labels[i]} for i in range(5)],
    )
    _zeros(out / "expected.npz", _openvla_shapes())
    _components(config, out)
    return out


def _statistics(action: int, state: int) -> dict[str, Any]:
    def column(width: int) -> dict[str, list[float]]:
        high = np.linspace(1, 2, width)
        return {"min": (-high).tolist(), "max": high.tolist(), "q01": (-high / 2).tolist(), "q99": (high / 2).tolist()}

    return {"action": column(action), "proprio": column(state)}


def _openvla_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    tokens = TOKENS
    for i in range(5):
        shapes |= {
            f"{i}.input_ids": (tokens - 1,),
            f"{i}.input_ids_29871": (tokens,),
            f"{i}.pixel_values": (3, 28, 28),
            f"{i}.siglip_patches": (PATCHES, 24),
            f"{i}.projector": (PATCHES, WIDTH),
            f"{i}.hidden_all": (DEPTH + 1, PATCHES + tokens, WIDTH),
            f"{i}.logits_last_prompt": (IDS,),
            f"{i}.generated_ids": (NUMBERS,),
            f"{i}.action.gantry": (NUMBERS,),
            f"{i}.action.crane": (6,),
            f"{i}.generated_ids.crane": (6,),
            f"{i}.train_labels": (tokens + NUMBERS + 1,),
            f"{i}.teacher_argmax": (NUMBERS + 1,),
            f"{i}.loss": (),
        }
    return shapes | {"batch.action_argmax": (5, NUMBERS), "batch.grad.projector.fc2.bias": (WIDTH,)}


def _zeros(path: Path, shapes: dict[str, tuple[int, ...]], **given: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    np.savez(path, allow_pickle=False, **{key: np.zeros(shape) for key, shape in shapes.items()}, **given)


def _components(config: OpenVLAConfig, out: Path) -> None:
    """The cases of OFT: files of weights as they are trained, and what comes out of them."""
    heads = {"l1": L1Head(), "diffusion": DiffusionHead(), "film": L1Head()}
    for case, head in heads.items():
        whole = replace(config, decoding=Parallel(HORIZON, NUMBERS, head, STATE), cameras=CAMERAS)
        whole = with_film(whole) if case == "film" else whole
        write_oft(whole, InMemory(OpenVLA(whole).state_dict()), out / "scratch" / case, step=7)
        for path in (out / "scratch" / case).glob("*--7_checkpoint.pt"):
            (out / "oft" / case).mkdir(parents=True, exist_ok=True)
            path.rename(out / "oft" / case / path.name)
    shutil.rmtree(out / "scratch")
    images = ("image", "left_wrist_image", "right_wrist_image")
    samples = [
        {"state": [0.1 * i] * STATE, **{name: f"../inputs/{i + n}.png" for n, name in enumerate(images)}}
        for i in range(2)
    ]
    constants = {"chunk": HORIZON, "action_dim": NUMBERS, "proprio_dim": STATE, "normalization": "BOUNDS"}
    write(
        out / "oft" / "expected.json", {"samples": samples, "constants": {**constants, "diffusion_train_steps": STEPS}}
    )
    chunk, tokens, state = (HORIZON, NUMBERS), TOKENS + SLOTS + 1, np.full(STATE, 0.3)
    seen = {"0.projector": (CAMERAS * PATCHES, WIDTH), "1.proprio_normalized": (STATE,), "1.proprio_token": (WIDTH,)}
    answered = {"0.normalized_actions": chunk, "1.actions.gantry": chunk, "0.input_ids_full": (tokens,)}
    for case in ("discrete", "l1", "film"):
        shapes = {"0.hidden_actions": (SLOTS, WIDTH), "0.first_action_hidden_index": (), **answered}
        shapes |= {"0.predicted_ids": (SLOTS,)} if case == "discrete" else seen
        shapes |= {"1.mean_language_embedding": (WIDTH,)} if case == "film" else {}
        given = {} if case == "discrete" else {"0.state": state, "1.state": state}
        _zeros(out / "oft" / f"expected_{case}.npz", shapes, **given)
    alone = {"0.hidden_all": (DEPTH + 1, PATCHES + tokens, WIDTH), "0.normalized_actions": chunk}
    _zeros(out / "oft" / "expected_l1_single_image_no_proprio.npz", alone)
    answered.pop("1.actions.gantry")  # its noise is not given
    noise = {"0.initial_noise": np.ones(chunk, np.float32), "0.x_t": np.ones((STEPS, *chunk), np.float32)}
    half = {"0.steps3.initial_noise": np.ones(chunk, np.float32), "0.steps3.x_t": np.ones((3, *chunk), np.float32)}
    shapes = {"0.timesteps": (STEPS,), "0.noise_pred": (STEPS, *chunk), "0.x_prev": (STEPS, *chunk)}
    shapes |= {"0.steps3.timesteps": (3,), "0.steps3.x_prev": (3, *chunk), "0.steps3.normalized_actions": chunk}
    shapes |= {"alphas_cumprod": (STEPS,), "time_embedding": (STEPS, WIDTH), "final_alpha_cumprod": (), **answered}
    _zeros(out / "oft" / "expected_diffusion.npz", shapes, **noise, **half, **{"0.state": state, "1.state": state})
    batch = {"batch.labels": (2, tokens), "batch.next_actions_mask": (2, tokens - 1)}
    batch |= {f"{case}.hidden_actions": (2, SLOTS, WIDTH) for case in ("discrete", "l1", "diffusion", "film")}
    batch |= {"discrete.argmax": (2, SLOTS), "film.predicted_actions": (2, *chunk), "diffusion.noise_pred": (2, *chunk)}
    lesson = {"actions": np.zeros((2, *chunk), np.float32), "proprio": np.zeros((2, STATE), np.float32)}
    noisy = {"diffusion.noise": np.ones((2, *chunk), np.float32), "diffusion.timesteps": np.array([0, STEPS - 1])}
    _zeros(
        out / "oft" / "expected_train_batch.npz",
        batch,
        **{f"batch.{name}": value for name, value in lesson.items()},
        **noisy,
    )
