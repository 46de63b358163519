"""Describe the machine and the package versions, on which measured figures depend."""

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
    """Return {"python": version, package: version} of the packages that figures depend on."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def machine():
    """Return the processor, the cores and the quota of cores of this process, the memory in GiB and the system."""
    return {
        "cpu": _cpu_model(),
        "cores": available_cores(),
        "quota_cores": _quota(Path("/sys/fs/cgroup")),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "os": platform.platform(),
    }


def available_cores(cgroup="/sys/fs/cgroup"):
    """Return how many cores this process may keep busy: those it may run on, limited by the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(Path(cgroup))
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def free_memory_gib(meminfo="/proc/meminfo"):
    """Return the memory available to new processes in GiB, None on systems other than Linux."""
    try:
        lines = Path(meminfo).read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) / 2**20 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def _quota(cgroup):
    """Return the number of cores that a control group (version 2 or 1) allows, None without a limit."""
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
