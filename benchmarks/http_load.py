"""Load on an HTTP server: from wrk if it is installed, else from this project's load generator."""

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.figures import check_errors
from benchmarks.load_connections import HTTPTarget
from benchmarks.load_generator import LoadGenerator
from rnn_serving import files

WRK_SCRIPT = """wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local bodies, index = {{}}, 0
for line in io.lines({bodies}) do bodies[#bodies + 1] = line end
request = function()
  index = index % #bodies + 1
  return wrk.format(nil, nil, nil, bodies[index])
end
"""


def program():
    """Return where load comes from on this machine."""
    return "wrk" if shutil.which("wrk") else "benchmarks.load_generator"


def open_load(bodies):
    """Return a context manager whose value has `run(url, concurrency, duration_s) -> Speed`, with bodies of JSON.

    `run` raises UserError if a request had no answer or an error.
    """
    return Wrk(bodies) if shutil.which("wrk") else OwnLoad(bodies)


@dataclass
class Speed:
    """What one turn of load measured; latencies in milliseconds."""

    throughput_rps: float
    p50_ms: float
    p99_ms: float


class Wrk:
    """wrk, a load generator in C that leaves nearly all of the machine to the server."""

    def __init__(self, bodies):
        self._bodies = bodies

    def __enter__(self):
        self._directory = tempfile.TemporaryDirectory(prefix="wrk-")
        directory = Path(self._directory.name)
        (directory / "bodies").write_bytes(b"\n".join(self._bodies))
        self._script = directory / "post.lua"
        files.write_text(self._script, WRK_SCRIPT.format(bodies=json.dumps(str(directory / "bodies"))))
        return self

    def __exit__(self, *_):
        self._directory.cleanup()

    def run(self, url, concurrency, duration_s):
        """Keep `concurrency` connections busy; return the `Speed`."""
        command = ["wrk", "--threads", "1", "--connections", str(concurrency), "--duration", f"{duration_s:.0f}s"]
        command += ["--latency", "--script", str(self._script), url]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        failed = re.findall(r"Non-2xx.*|Socket errors:.*|unable to.*", ended.stdout + ended.stderr)
        # The article's server closes every connection, which wrk counts as a read error.
        check_errors([line for line in failed if not re.search(r"connect 0, read \d+, write 0, timeout 0", line)])
        return read_speed(ended.stdout)


def read_speed(output):
    """Return the `Speed` that wrk printed."""
    percentiles = dict(re.findall(r"(50|99)%\s+(\S+)", output))
    throughput = float(re.search(r"Requests/sec:\s+(\S+)", output)[1])
    return Speed(throughput, milliseconds(percentiles["50"]), milliseconds(percentiles["99"]))


def milliseconds(text):
    """Return a duration as wrk writes it, "1.23ms", in milliseconds."""
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(value) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[unit]


class OwnLoad:
    """The project's load generator."""

    def __init__(self, bodies):
        self._bodies, self._generator = bodies, LoadGenerator()

    def __enter__(self):
        self._generator.__enter__()
        return self

    def __exit__(self, *error):
        self._generator.__exit__(*error)

    def run(self, url, concurrency, duration_s):
        """Keep `concurrency` connections busy; return the `Speed`."""
        load = self._generator.run(HTTPTarget(url, self._bodies), concurrency, duration_s)
        check_errors(load.errors)
        p50, p99 = np.percentile(load.latencies_s(), (50, 99)) * 1000
        return Speed(load.throughput_rps, float(p50), float(p99))
