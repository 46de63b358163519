"""Load generators that this project did not write, for `benchmarks.cross_check`; wrk is in `benchmarks.http_load`.

apt-get install wrk nghttp2-client    # wrk and h2load
npm install -g autocannon
"""

import json
import re
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.figures import check_errors
from benchmarks.http_load import Speed
from benchmarks.protocols import PREDICT

# Seconds that a tool may take beyond the load.
TIME_LIMIT_S = 60
WARM_UP_S = 1
GRPC_HEADERS = ("-H", "content-type: application/grpc", "-H", "te: trailers")
# Calls in flight at a rate; those beyond wait.
MAX_STREAMS = 256


class Autocannon:
    """autocannon, which sends all requests of a second at its beginning, each over a connection of its own.

    It counts latencies in whole milliseconds. Its correction for coordinated omission is off, since that takes the
    interval between the requests of a connection for 1 ms, whatever the rate.
    """

    def __init__(self, body):
        self._body = body

    def run(self, url, rate, duration_s):
        """Send `rate` requests per second; return the `Speed`. Raises: UserError if one failed."""
        with tempfile.TemporaryDirectory(prefix="autocannon-") as directory:
            body = Path(directory) / "body"
            body.write_bytes(self._body)
            command = ["autocannon", "--json", "--no-progress", "--ignoreCoordinatedOmission", "--method", "POST"]
            command += ["--headers", "Content-Type=application/json", "--input", str(body)]
            command += ["--connections", str(rate), "--overallRate", str(rate), "--duration", str(duration_s), url]
            return read_autocannon(_output(command, duration_s))


def read_autocannon(output):
    """Return the `Speed` in the JSON that autocannon printed. Raises: UserError if a request failed."""
    found = json.loads(output)
    failed = found["errors"] + found["timeouts"] + found["non2xx"]
    check_errors([f"autocannon: errors {found['errors']}, status other than 2xx {found['non2xx']}"] * failed)
    return Speed(found["2xx"] / found["duration"], float(found["latency"]["p50"]), float(found["latency"]["p99"]))


class H2load:
    """h2load of nghttp2, which calls a gRPC method over one HTTP/2 connection."""

    def __init__(self, message):
        self._message = message

    def run(self, address, concurrency, duration_s):
        """Keep `concurrency` calls in flight; return the `Speed`. Raises: UserError if one failed."""
        return self._run(address, duration_s, "--max-concurrent-streams", str(concurrency))

    def run_at(self, address, rate, duration_s):
        """Send `rate` calls per second at even intervals; return the `Speed`. Raises: UserError if one failed."""
        return self._run(address, duration_s, "--max-concurrent-streams", str(MAX_STREAMS), "--rps", str(rate))

    def _run(self, address, duration_s, *load):
        with tempfile.TemporaryDirectory(prefix="h2load-") as directory:
            body, log = Path(directory) / "body", Path(directory) / "log"
            body.write_bytes(b"\0" + struct.pack(">I", len(self._message)) + self._message)
            command = ["h2load", "--clients", "1", *load, "--data", str(body), "--log-file", str(log), *GRPC_HEADERS]
            command += ["--warm-up-time", str(WARM_UP_S), "--duration", str(duration_s), f"http://{address}{PREDICT}"]
            return read_h2load(_output(command, duration_s), log.read_text(encoding="ascii"))


def read_h2load(output, log):
    """Return the `Speed` of what h2load printed and logged: start, status and microseconds of each request.

    Raises: UserError if a request failed.
    """
    failed = sum(int(count) for count in re.findall(r"(\d+) (?:failed|errored|timeout)", output))
    check_errors([f"h2load: {re.search('requests: .*', output)[0]}"] * failed)
    latencies_us = [int(line.split("\t")[2]) for line in log.splitlines()]
    p50, p99 = np.percentile(latencies_us, (50, 99)) / 1000
    return Speed(float(re.search(r"([\d.]+) req/s", output)[1]), float(p50), float(p99))


def _output(command, duration_s):
    limit_s = WARM_UP_S + duration_s + TIME_LIMIT_S
    return subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=True).stdout
