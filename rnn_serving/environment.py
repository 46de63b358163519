"""What a measured figure depends on: the machine and the versions."""

import math
import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "tensorflow",
    "numpy",
    "flask",
    "werkzeug",
    "gunicorn",
    "gevent",
    "httptools",
    "orjson",
    "requests",
    "grpcio",
    "protobuf",
    "tensorflow-serving-api",
)


def versions():
    """Return {"python": ..., package: version} for what the figures depend on."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def machine():
    """Return the processor, the cores this process may use, their quota if any, memory in GiB and the system."""
    return {
        "cpu": _cpu_model(),
        "cores": available_cores(),
        "quota_cores": _quota(Path("/sys/fs/cgroup")),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "os": platform.platform(),
    }


def available_cores(cgroup="/sys/fs/cgroup"):
    """Return how many cores this process may keep busy: those it may run on, at most the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(Path(cgroup))
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def free_memory_gib(meminfo="/proc/meminfo"):
    """Return the memory that processes to come may use, in GiB, None where the system does not say (not Linux)."""
    try:
        lines = Path(meminfo).read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def _quota(cgroup):
    """Return the cores that a control group, version 2 or 1, allows, None if it sets no limit."""
    try:
        limit, period = (cgroup / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            limit, period = (
                (cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii").strip()
                for name in ("quota", "period")
            )
        except OSError:
            return None
    return None if limit in ("max", "-1") else int(limit) / int(period)


def _cpu_model():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
