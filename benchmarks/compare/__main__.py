"""`python -m benchmarks.compare`: the same as scripts/compare_latency.py."""

from benchmarks.compare.comparison import main
from rnn_serving import command_line

if __name__ == "__main__":
    command_line.run(main)
