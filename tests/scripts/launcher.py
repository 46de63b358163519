"""Run `scripts/serve_tfserving.sh` with programs that only print their command line."""

import shutil
import subprocess
import sys

from conftest import ROOT

SCRIPT = ROOT / "scripts" / "serve_tfserving.sh"
# A program that prints its own command line.
RECORD = 'echo "ran $(basename "$0") $*"'


def make_path(directory):
    """Return a directory to use as PATH: it has the tools that the script needs, as macOS has them, and no server."""
    path = directory / "bin"
    path.mkdir()
    for tool in filter(shutil.which, ("bash", "dirname", "basename", "sed", "sleep")):
        (path / tool).symlink_to(shutil.which(tool))
    return path


def add_executable(path, name, body=RECORD):
    """Add a shell script to a directory."""
    (path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (path / name).chmod(0o755)


def serve(path, base, *flags, **environment):
    """Run the script to its end with that PATH; return what `subprocess.run` does. Without a base, there is no flag."""
    command = [SCRIPT, *([f"--model_base_path={base}"] if base else []), *flags]
    variables = {"PATH": str(path), "PYTHON": sys.executable} | environment
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
