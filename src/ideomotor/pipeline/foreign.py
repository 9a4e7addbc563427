"""What the files of an OpenVLA checkpoint say to its pipeline: image strategy, prompt, tokenizer, licence texts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ideomotor.core.errors import UserError
from ideomotor.core.files import LARGEST_NOTICE, read_json, read_small
from ideomotor.data.resize import Fit, Letterbox, Naive, ResizeCrop
from ideomotor.tokenize.llama import LlamaTokenizer
from ideomotor.tokenize.prompt import OpenVLA, Vicuna

CONFIG, PREPROCESSOR, ORIGIN = "config.json", "preprocessor_config.json", "origin.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model")
NOTICES = ("LICENSE*", "NOTICE*", "USE_POLICY*")  # texts that have to stay with the tokenizer
STRATEGIES = ("resize-naive", "letterbox", "resize-crop")


def read_fit(folder: Path) -> Fit:
    """Return how the checkpoint's image processor fits a picture into the square; `resize-naive` where nothing is said.

    Raises:
        UserError: a strategy that is not known, or a letterbox without its colour.
    """
    fields = read_json(folder / PREPROCESSOR) if (folder / PREPROCESSOR).is_file() else {}
    where = PREPROCESSOR if "image_resize_strategy" in fields else CONFIG
    if where == CONFIG:
        fields = _stated(folder)
    strategy = fields.get("image_resize_strategy", STRATEGIES[0])
    match strategy:
        case "resize-naive":
            return Naive()
        case "resize-crop":
            return ResizeCrop()
        case "letterbox":
            return Letterbox(_fill(fields, folder / where))
        case _:
            raise UserError(
                f"{folder / where}: unknown image_resize_strategy {strategy!r}; known: {', '.join(STRATEGIES)}"
            )


def _stated(folder: Path) -> dict[str, Any]:
    """Return OpenVLA's config.json; a checkpoint converted to our layout keeps it in origin.json."""
    if (folder / ORIGIN).is_file():
        config: Any = read_json(folder / ORIGIN).get("config")
        return config if isinstance(config, dict) else {}
    return read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}


def _fill(fields: Mapping[str, Any], where: Path) -> tuple[int, int, int]:
    fill: Any = fields.get("tvf_letterbox_fill")
    means: Any = fields.get("means")
    if fill is None and isinstance(means, list) and means:
        fill = [int(255 * mean) for mean in means[-1]]  # as the reference computes it at load
    if (
        not isinstance(fill, list)
        or len(fill) != 3
        or not all(type(level) is int and 0 <= level <= 255 for level in fill)
    ):
        raise UserError(f"{where}: letterbox needs tvf_letterbox_fill, three levels from 0 to 255; it is {fill!r}")
    return (fill[0], fill[1], fill[2])


def read_prompt(folder: Path) -> OpenVLA | Vicuna:
    """Return the question that the language model was trained with: Vicuna's conversation, or the bare one."""
    fields = _stated(folder)
    names = f"{fields.get('llm_backbone_id', '')} {fields.get('hf_llm_id', '')}".lower()
    return Vicuna() if "vicuna" in names else OpenVLA()


def read_tokenizer(folder: Path) -> LlamaTokenizer:
    """Return the checkpoint's tokenizer.

    Raises:
        UserError: there is none, or it is not Llama-2's.
    """
    for name in TOKENIZERS:
        if (folder / name).is_file():
            return LlamaTokenizer.from_file(folder / name)
    raise UserError(
        f"{folder} has neither {' nor '.join(TOKENIZERS)}; copy one of them from the OpenVLA checkpoint: this project ships no Llama-2"
        " tokenizer, whose licence goes with the file"
    )


def read_notices(folder: Path) -> dict[str, bytes]:
    """Return the licence texts beside the weights, by file name."""
    paths = sorted({path for pattern in NOTICES for path in folder.glob(pattern) if path.is_file()})
    return {path.name: read_small(path, LARGEST_NOTICE) for path in paths}
