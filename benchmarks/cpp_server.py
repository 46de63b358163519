"""Find tensorflow_model_server, the C++ server, on this machine, and choose its flags."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from rnn_serving import environment, files

NAME = "tensorflow_model_server"
BATCHING = f"{NAME}_batching"
DOCKER_IMAGE = "tensorflow/serving"
# By default it has four gRPC threads a core and refuses further callers with RESOURCE_EXHAUSTED.
GRPC_MAX_THREADS = 256
FLAGS = (f"--grpc_max_threads={GRPC_MAX_THREADS}",)
THREAD_LIMIT = f"--grpc_max_threads={GRPC_MAX_THREADS}, since by default it refuses gRPC callers beyond four a core"
BATCH_SIZES = (1, 2, 4, 8, 16, 32)


def find():
    """Return how this machine has the C++ server, "binary" or "docker", or None; TFSERVING decides if it is set."""
    forced = os.environ.get("TFSERVING")
    if forced:
        return forced if forced in ("binary", "docker") else None
    if shutil.which(NAME):
        return "binary"
    # A docker command without a daemon is common, and may take minutes to say so.
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        inspect = ["docker", "image", "inspect", DOCKER_IMAGE]
        if subprocess.run(inspect, capture_output=True, timeout=3, check=False).returncode == 0:
            return "docker"
    return None


def version(how):
    """Return the version of the C++ server, run as `find` says, or "unknown"."""
    command = [NAME]
    if how == "docker":
        command = ["docker", "run", "--rm", "--entrypoint", NAME, DOCKER_IMAGE]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        ended = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=30, check=False)
        lines = ended.stdout.splitlines()
        return next((line.rpartition(" ")[2] for line in lines if "ModelServer:" in line), "unknown")
    return "unknown"


def batching_parameters():
    """Return {name: value} of the BatchingParameters with which it is measured; a list stands for a repeated field."""
    return {
        "max_batch_size": max(BATCH_SIZES),
        # 0: a batch takes what waits and never waits for more, as in the Flask endpoint.
        "batch_timeout_micros": 0,
        "num_batch_threads": environment.available_cores(),
        "allowed_batch_sizes": list(BATCH_SIZES),
    }


def batching_flags(directory):
    """Write a parameters file to a directory that the server can read; return the flags that turn batching on."""
    path = Path(directory) / "batching_parameters.txt"
    files.write_text(path, batching_parameters_text())
    return ("--enable_batching=true", f"--batching_parameters_file={path}")


def batching_parameters_text():
    """Return the parameters as text of a protocol buffer."""
    lines = []
    for name, value in batching_parameters().items():
        lines += [
            f"{name}: {each}" if isinstance(value, list) else f"{name} {{ value: {each} }}" for each in _each(value)
        ]
    return "\n".join(lines) + "\n"


def describe_batching():
    """Return the parameters as part of a sentence."""
    parameters = batching_parameters().items()
    return "batching on: " + ", ".join(f"{name} {','.join(map(str, _each(value)))}" for name, value in parameters)


def _each(value):
    return value if isinstance(value, list) else [value]
