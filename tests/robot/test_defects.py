"""Each defect that is put into the shield on purpose is caught (`tools/shield_defects.py`), and the shield as it is is clean."""

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "shield_defects.py"


def test_every_defect_is_caught_and_without_one_nothing_is_found() -> None:
    """In a process of its own: the shape checks of these tests would make it ten times slower."""
    command = [sys.executable, str(TOOL), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr[-2000:]
    found = json.loads(done.stdout)
    first, what, proposals = found["clean"]
    assert (first, what) == (0, "")
    assert proposals > 3000
    assert len(found["defects"]) >= 25
    missed = [name for name, (at, _, _) in found["defects"].items() if at == 0]
    assert missed == []
    assert done.returncode == 0
