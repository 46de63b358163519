from benchmarks import http_load

WRK_OUTPUT = """Running 4s test @ http://127.0.0.1:5000/
  1 threads and 32 connections
  Latency Distribution
     50%    4.04ms
     75%    5.10ms
     90%  800.00us
     99%    1.50s
  21618 requests in 4.00s, 6.10MB read
Requests/sec:   5403.21
"""


def test_the_speed_is_read_from_what_wrk_prints():
    assert http_load.read_speed(WRK_OUTPUT) == http_load.Speed(5403.21, 4.04, 1500.0)
