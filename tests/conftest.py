import os
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # two threads on a shared machine can be ten times slower than one
os.environ.setdefault("MUJOCO_GL", "disabled")

from jaxtyping import install_import_hook

# Tests check the shapes of every annotated call; production pays nothing.
install_import_hook("ideomotor", "beartype.beartype")

import pytest


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of reference data; a test that needs it skips where it is absent."""
    folder = Path(os.environ.get("IDEOMOTOR_FIXTURES", Path(__file__).parents[2] / "shared" / "fixtures"))
    if not folder.is_dir():
        pytest.skip(f"reference fixtures are absent ({folder}); set IDEOMOTOR_FIXTURES to their folder")
    return folder
