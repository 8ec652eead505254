"""The examples run as they stand."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("name", "says"), [("own_loop.py", "hardest examples"), ("own_network.py", "files: audit-blobs")]
)
def test_an_example_runs(name, says, root, tmp_path):
    done = subprocess.run(
        [sys.executable, str(root / "examples" / name)], cwd=tmp_path, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert says in done.stdout
