"""The pictures behind golden/tensorflow.npz, made by the tool that wrote it, and what TensorFlow gave for them."""

import importlib.util
from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "golden" / "tensorflow.npz"
TOOL = Path(__file__).parents[2] / "tools" / "tf_golden.py"


def tool():
    """The tool as a module; it imports TensorFlow only when it is run."""
    spec = importlib.util.spec_from_file_location("tf_golden", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The pictures by name, and the results by `picture.operation.parameter`."""
    module = tool()
    with np.load(FILE) as file:
        golden = {key: file[key] for key in file}
    pictures = module.pictures()
    for name, picture in pictures.items():
        assert module.checksum(picture) == str(golden.pop(f"{name}.sha256")), (
            f"numpy makes another {name}: run {TOOL.name}"
        )
    return pictures, golden
