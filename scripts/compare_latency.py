"""Compare the servers: `python scripts/compare_latency.py --help`. It is benchmarks/compare/comparison.py."""

from benchmarks.compare.comparison import main, parse_arguments
from rnn_serving import command_line

__all__ = ["main", "parse_arguments"]

if __name__ == "__main__":
    command_line.run(main)
