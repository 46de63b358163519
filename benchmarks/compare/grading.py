"""Grade the answers of one turn of load."""

from dataclasses import dataclass

import numpy as np

from benchmarks.answers import are_close


@dataclass
class Turn:
    """What one turn of load measured: seconds of each answer, errors, and the images sent and classified wrong.

    `different` counts the answers that are not the bare model's, `busy` is the load generator's share of a core.
    """

    round: int
    elapsed_s: float
    latencies_s: list
    errors: list
    different: int
    asked: set
    not_right: set
    busy: float

    @property
    def throughput_rps(self):
        """Answers per second."""
        return len(self.latencies_s) / self.elapsed_s

    @property
    def p50_ms(self):
        """The median latency in milliseconds, None without an answer."""
        return 1000 * float(np.median(self.latencies_s)) if self.latencies_s else None


class Grader:
    """Compares the answers of one server with `ExpectedAnswers`; equal bytes are compared once."""

    def __init__(self, expected, labels):
        self._expected, self._labels, self._verdicts = expected, labels, {}
        self.num_images = len(expected.requests)

    def grade(self, load, turn):
        """Return the `Turn`, number `turn`, of a `load_process.RawLoad`."""
        verdicts = [(index, *self._verdict(index, answer)) for index, _, answer in load.answered]
        return Turn(
            round=turn,
            elapsed_s=load.elapsed_s,
            latencies_s=load.latencies_s(),
            errors=load.errors,
            different=sum(not is_same for _, is_same, _ in verdicts),
            asked={index for index, _, _ in verdicts},
            not_right={index for index, _, is_right in verdicts if not is_right},
            busy=load.busy,
        )

    def _verdict(self, index, answer):
        """Return (whether it is the model's answer, whether it is the digit on the image)."""
        key = (index, answer)
        if key not in self._verdicts:
            self._verdicts[key] = self._compare(index, answer)
        return self._verdicts[key]

    def _compare(self, index, answer):
        protocol, expected = self._expected.protocol, self._expected.scores[index]
        try:
            scores = protocol.decode(answer)
        except (ValueError, KeyError, TypeError):
            return False, False
        if scores.shape != (1, *expected.shape):
            return False, False
        is_same = are_close(protocol.kind, scores[0], expected)
        return bool(is_same), bool(scores[0].argmax() == self._labels[index])
