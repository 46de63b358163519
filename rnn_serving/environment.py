"""What a measured figure depends on: the machine and the versions."""

import os
import platform
from importlib import metadata

PACKAGES = ("tensorflow", "numpy", "flask", "gunicorn", "orjson", "requests", "grpcio", "tensorflow-serving-api")


def versions():
    """Return {"python": ..., package: version} for what the figures depend on."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


def machine():
    """Return the processor, the number of cores this process may use, memory in GiB and the operating system."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "os": platform.platform(),
    }


def _cpu_model():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
