import os

import pytest

from rnn_serving import environment


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    """Make the machine one with eight cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


def write_files(directory, files):
    """Write {relative path: text} below a directory and return it."""
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)
    return directory


def cgroup_v1(quota, period):
    """Return the files of a version 1 control group that limit the CPU time."""
    return {"cpu/cpu.cfs_quota_us": f"{quota}\n", "cpu/cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "1600000 100000\n"}, 8),
        ({"cpu.max": "300000 100000\n", **cgroup_v1(100000, 100000)}, 3),
        ({"cpu.max": ""}, 8),
        (cgroup_v1(-1, 100000), 8),
        (cgroup_v1(300000, 100000), 3),
        (cgroup_v1(10000, 100000), 1),
    ],
)
def test_available_cores_respect_the_containers_quota(tmp_path, files, cores):
    assert environment.available_cores(write_files(tmp_path, files)) == cores


def test_free_memory_is_none_where_the_system_does_not_report_it(tmp_path):
    write_files(tmp_path, {"meminfo": "MemTotal:  8388608 kB\nMemAvailable:    2097152 kB\n"})
    assert environment.free_memory_gib(tmp_path / "meminfo") == 2
    assert environment.free_memory_gib(tmp_path / "none") is None
