"""The Python of the .proto files that is checked in is what `make proto` makes of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = Path("schemas/proto")


def test_the_generated_code_is_current(tmp_path):
    protos = [str(path.relative_to(ROOT)) for path in sorted((ROOT / FOLDER).rglob("*.proto"))]
    outs = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I.", *outs, *protos], cwd=ROOT, check=True)
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*_pb2*")}
    held = [path for path in (ROOT / FOLDER).rglob("*_pb2*") if path.suffix in (".py", ".pyi")]
    assert len(made) == 3 * len(protos)
    assert made == {path.relative_to(ROOT): path.read_text() for path in held}
