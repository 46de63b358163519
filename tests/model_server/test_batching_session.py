import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
from google.protobuf import text_format

from rnn_serving.model_server import text_protos
from rnn_serving.model_server.batching_options import BatchingOptions
from rnn_serving.model_server.batching_session import BatchingSession
from rnn_serving.model_server.errors import ServingError
from rnn_serving.quiet_tensorflow import tf

POSITIVE, NOT_NEGATIVE = "{} must be positive; was {}", "{} must be non-negative; was {}"
MAX_SIZE = "max_batch_size: input_batch_size_limit"
SPLITTING = "enable_large_batch_splitting { value: true } "


def options_of(text, per_model=False):
    return BatchingOptions.of(text_format.Parse(text, text_protos.BatchingParameters()), per_model)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_batch_threads { value: 0 }", POSITIVE.format("num_batch_threads", 0)),
        ("num_batch_threads {}", POSITIVE.format("num_batch_threads", 0)),
        ("num_batch_threads { value: -1 }", POSITIVE.format("num_batch_threads", -1)),
        ("max_enqueued_batches { value: 0 }", POSITIVE.format("max_enqueued_batches", 0)),
        ("max_enqueued_batches { value: -3 }", POSITIVE.format("max_enqueued_batches", -3)),
        ("max_batch_size { value: 0 }", POSITIVE.format(MAX_SIZE, 0)),
        ("max_batch_size { value: -5 }", POSITIVE.format(MAX_SIZE, -5)),
        ("batch_timeout_micros { value: -1 }", NOT_NEGATIVE.format("batch_timeout_micros", -1)),
        (
            "max_batch_size { value: 4 } allowed_batch_sizes: [2, 1, 4]",
            "allowed_batch_sizes entries must be monotonically increasing",
        ),
        (
            "max_batch_size { value: 4 } allowed_batch_sizes: [4, 4]",
            "allowed_batch_sizes entries must be monotonically increasing",
        ),
        (
            "max_batch_size { value: 4 } allowed_batch_sizes: [0, 4]",
            "allowed_batch_sizes entries must be positive; was 0",
        ),
        ("allowed_batch_sizes: [-2, 1000]", "allowed_batch_sizes entries must be positive; was -2"),
        (
            "max_batch_size { value: 4 } allowed_batch_sizes: [2, 3]",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 3; expected 4",
        ),
        (
            "allowed_batch_sizes: 32",
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 32; expected 1000",
        ),
        (SPLITTING + "max_execution_batch_size { value: 0 }", POSITIVE.format("max_execution_batch_size", 0)),
        (SPLITTING + "max_execution_batch_size { value: -1 }", POSITIVE.format("max_execution_batch_size", -1)),
        (
            SPLITTING + "max_batch_size { value: 4 } max_execution_batch_size { value: 5 }",
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
            "max_execution_batch_size. max_batch_size was 4; max_execution_batch_size was 5",
        ),
        (
            SPLITTING + "max_batch_size { value: 8 } max_execution_batch_size { value: 4 } allowed_batch_sizes: [2, 8]",
            "Last entry in allowed_batch_sizes must be equal to max_execution_batch_size; last entry was 8; expected 4",
        ),
    ],
)
def test_a_wrong_parameter_is_refused(text, message):
    with pytest.raises(ServingError) as error:
        options_of(text)
    assert (error.value.code.name, error.value.message) == ("INVALID_ARGUMENT", message)


def test_a_version_cannot_have_wrong_parameters_of_its_own(tmp_path):
    (tmp_path / "batching_params.pbtxt").write_text("max_enqueued_batches { value: 0 }")
    with pytest.raises(ServingError, match="max_enqueued_batches must be positive; was 0"):
        BatchingSession.of(options_of("", per_model=True), tmp_path, ())


@pytest.mark.parametrize(
    ("text", "max_batch_size", "execution_size"),
    [
        ("", 1000, 1000),
        ("max_batch_size { value: 8 }", 8, 8),
        ("max_batch_size { value: 8 } max_execution_batch_size { value: 99 }", 8, 8),
        (SPLITTING, 1000, 1000),
        (SPLITTING + "max_execution_batch_size { value: 32 }", 1000, 32),
        (SPLITTING + "max_batch_size { value: 8 } max_execution_batch_size { value: 8 }", 8, 8),
        ("enable_large_batch_splitting { value: false } max_execution_batch_size { value: 0 }", 1000, 1000),
    ],
)
def test_the_execution_size_counts_only_with_splitting(text, max_batch_size, execution_size):
    options = options_of(text)
    assert (options.max_batch_size, options.execution_size) == (max_batch_size, execution_size)


class Doubling:
    """A signature that doubles its input, and remembers how many rows it was called with."""

    def __init__(self, refused=None):
        self.inputs = {"x": SimpleNamespace(name="x:0")}
        self.outputs = {"y": SimpleNamespace(name="y:0"), "words": SimpleNamespace(name="words:0")}
        self.refused, self.sizes = refused, []

    def __call__(self, inputs, output_aliases, timeout_s):
        x = inputs["x"]
        self.sizes.append(len(x))
        if self.refused in x:
            raise tf.errors.InvalidArgumentError(None, None, "refused")
        outputs = {"y": 2 * x, "words": np.array([b"%d" % value for value in x], object)}
        return {alias: outputs[alias] for alias in output_aliases}


def run(session, signature, rows, way, output_aliases=None):
    inputs = {"x": np.arange(rows, dtype=np.float32)}
    if way == "in an event loop":
        return asyncio.run(session.run_async(signature, inputs, output_aliases))
    return session.run(signature, inputs, output_aliases)


SPLIT_BY_32 = SPLITTING + "max_batch_size { value: 320 } max_execution_batch_size { value: 32 } "
both_ways = pytest.mark.parametrize("way", ["in a thread", "in an event loop"])


@both_ways
@pytest.mark.parametrize(
    ("text", "rows", "sizes"),
    [
        (SPLIT_BY_32, 100, [32, 32, 32, 4]),
        (SPLIT_BY_32, 320, [32] * 10),
        (SPLIT_BY_32, 33, [32, 1]),
        (SPLIT_BY_32, 32, [32]),
        (SPLIT_BY_32, 1, [1]),
        (SPLIT_BY_32 + "allowed_batch_sizes: [8, 32]", 100, [32, 32, 32, 8]),
        (SPLITTING + "max_batch_size { value: 100 }", 100, [100]),
        ("max_batch_size { value: 100 } max_execution_batch_size { value: 32 }", 100, [100]),
    ],
)
def test_a_large_request_runs_in_parts(way, text, rows, sizes):
    signature = Doubling()
    answer = run(BatchingSession(options_of(text)), signature, rows, way)
    assert sorted(signature.sizes, reverse=True) == sizes
    assert answer["y"].tolist() == [2.0 * row for row in range(rows)]
    assert answer["words"].tolist() == [b"%d" % row for row in range(rows)]


@both_ways
@pytest.mark.parametrize(
    ("text", "rows", "code", "message"),
    [
        (SPLIT_BY_32, 321, "INVALID_ARGUMENT", "Task size 321 is larger than maximum input batch size 320"),
        (
            SPLIT_BY_32 + "max_enqueued_batches { value: 2 }",
            100,
            "UNAVAILABLE",
            "The batch scheduling queue to which this task was submitted is full; task size is 100 but scheduling "
            "capacity is only 64 (num_enqueued_batches=1, max_enqueued_batches=2, open_batch_size=0, "
            "max_execution_batch_size=32)",
        ),
    ],
)
def test_a_request_that_is_too_large_to_split_is_refused(way, text, rows, code, message):
    signature = Doubling()
    with pytest.raises(ServingError) as error:
        run(BatchingSession(options_of(text)), signature, rows, way)
    assert (error.value.code.name, error.value.message, signature.sizes) == (code, message, [])


@both_ways
def test_a_part_that_fails_fails_the_request(way):
    session = BatchingSession(options_of(SPLIT_BY_32))
    with pytest.raises(tf.errors.InvalidArgumentError, match="refused"):
        run(session, Doubling(refused=99.0), 100, way)
    assert run(session, Doubling(), 3, way, ["y"])["y"].tolist() == [0.0, 2.0, 4.0]


def test_parts_and_other_requests_get_their_own_rows():
    session = BatchingSession(options_of(SPLIT_BY_32 + "batch_timeout_micros { value: 200000 }"))
    signature = Doubling()

    async def both():
        x = np.arange(60, dtype=np.float32)
        return await asyncio.gather(*(session.run_async(signature, {"x": part}, ["y"]) for part in (x[:40], x[40:])))

    first, second = asyncio.run(both())
    assert np.concatenate([first["y"], second["y"]]).tolist() == [2.0 * row for row in range(60)]
    assert sum(signature.sizes) == 60
    assert max(signature.sizes) <= 32
