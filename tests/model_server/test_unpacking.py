import asyncio
import gzip
import threading
import time

import grpc
import numpy as np
import pytest
from conftest import start_model_server

from rnn_serving.model_server import unpacking
from rnn_serving.model_server.errors import ServingError
from rnn_serving.model_server.tensors import decode
from rnn_serving.model_server.unpacking import Budget
from rnn_serving.quiet_tensorflow import tf

from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("size", [0, 1, 10_000, 2**20, 2**25])
def test_a_gzip_body_is_unpacked(size):
    content = np.random.default_rng(0).integers(0, 9, size, np.uint8).tobytes()
    assert unpacking.unpack(gzip.compress(content, 1)) == content


@pytest.mark.parametrize("size", [100 * 2**20 + 1, 1_600_000_000])
def test_one_that_unpacks_to_more_than_the_limit_is_not_unpacked(size):
    compressor, empty = unpacking.zlib.compressobj(1, wbits=31), bytes(2**20)
    pieces = [compressor.compress(empty[: size - at]) for at in range(0, size, 2**20)]
    body = b"".join(pieces) + compressor.flush()
    began = time.process_time()
    assert unpacking.unpack(body) == b""
    assert unpacking.unpack(body[:-4] + b"\x10\x00\x00\x00") == b""  # that claims to be smaller
    assert time.process_time() - began < 0.5


def reserve(budget, amounts):
    """Reserve amounts in threads, one started after the other; return (the order, the most that was taken at once)."""
    order, taken, most, lock = [], [], [], threading.Lock()

    def run(amount):
        with budget.reserve(amount):
            with lock:
                order.append(amount)
                taken.append(amount)
                most.append(sum(taken))
            time.sleep(0.05)
            with lock:
                taken.remove(amount)

    threads = [threading.Thread(target=run, args=(amount,)) for amount in amounts]
    for thread in threads:
        thread.start()
        time.sleep(0.01)
    for thread in threads:
        thread.join(20)
    return order, max(most)


def test_requests_share_a_budget_and_wait_in_order():
    order, most = reserve(Budget(100, ignored=0), [60, 50, 10, 100, 1, 60])
    assert order == [60, 50, 10, 100, 1, 60]
    assert most <= 100


def test_small_amounts_do_not_wait_and_one_that_is_too_large_takes_all():
    budget = Budget(100, ignored=5)
    with budget.reserve(1000), budget.reserve(5):
        with pytest.raises(ServingError, match="DEADLINE_EXCEEDED"), budget.reserve(6, timeout_s=0.05):
            pass
    with budget.reserve(100):
        pass


def test_an_error_gives_the_memory_back():
    budget = Budget(100, ignored=0)
    for _ in range(3):
        with pytest.raises(KeyError), budget.reserve(100, timeout_s=1):
            raise KeyError


def test_an_event_loop_is_not_blocked_and_refuses_what_is_too_much_to_wait():
    budget, order = Budget(100, ignored=0), []

    async def run(amount):
        async with budget.reserve_async(amount):
            order.append(amount)
            await asyncio.sleep(0.02)

    async def run_all(amounts):
        return await asyncio.gather(*map(run, amounts), return_exceptions=True)

    assert asyncio.run(run_all([60, 50, 100, 1])) == [None] * 4
    assert order == [60, 50, 100, 1]
    errors = [result for result in asyncio.run(run_all([100] * 9)) if result]
    assert errors
    assert {error.code for error in errors} == {RESOURCE_EXHAUSTED}
    assert asyncio.run(run_all([100])) == [None]


@pytest.mark.parametrize("dtype", [types_pb2.DT_FLOAT, types_pb2.DT_INT8, types_pb2.DT_STRING])
def test_a_value_is_not_repeated_to_more_than_the_limit(dtype):
    tensor = tensor_pb2.TensorProto(dtype=dtype, float_val=[1.0], int_val=[1], string_val=[b"1"])
    tensor.tensor_shape.dim.add(size=2**28 + 1)
    with pytest.raises(ServingError, match="tensor parsing error: x"):
        decode("x", tensor)
    tensor.tensor_shape.dim[0].size = 5
    assert decode("x", tensor).shape == (5,)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--enable_batching",)], ids=str)
def test_a_compressed_message_is_unpacked_up_to_the_limit_of_messages(export_base, flags):
    limit = "--grpc_channel_arguments=grpc.max_receive_message_length=1000000"
    with start_model_server(export_base, *flags, limit) as server:
        with grpc.insecure_channel(server.ready[1], compression=grpc.Compression.Gzip) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            for count, code in ((300, "OK"), (900, "RESOURCE_EXHAUSTED"), (2, "OK")):
                request = predict_pb2.PredictRequest(model_spec={"name": "mnist"})
                request.inputs["x_input"].CopyFrom(tf.make_tensor_proto(np.zeros((count, 28, 28), np.float32)))
                assert stub.Predict.future(request, timeout=60).code().name == code
