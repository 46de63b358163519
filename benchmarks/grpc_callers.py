"""A load generator for a gRPC server, in a process of its own."""

import asyncio
import contextlib
import multiprocessing
import time
from dataclasses import dataclass

import grpc
import numpy as np

from rnn_serving.command_line import UserError

# TensorFlow, and what imports it, is imported inside functions: the process of the callers sends bytes only.

# Seconds one answer may take.
TIMEOUT_S = 30.0
LOCAL_CHANNEL = (("grpc.enable_http_proxy", 0),)


@dataclass
class Answers:
    """What the callers were answered: (index of the request, seconds, bytes) each; `cpu_s` their process used."""

    answered: list
    errors: list
    elapsed_s: float
    cpu_s: float


class Callers:
    """Coroutines that ask a server without a pause, in a process that shares no interpreter with what is measured."""

    def __init__(self, requests, expected):
        """Take serialized PredictRequests, and the logits float32 (N, 10) that their answers must have."""
        context = multiprocessing.get_context("spawn")
        self._ready, self._stop = context.Event(), context.Event()
        self._pool = context.Pool(1, _keep, (requests, self._ready, self._stop))
        self._expected = expected

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pool.terminate()
        self._pool.join()

    @contextlib.contextmanager
    def asking(self, address, count):
        """Let `count` callers ask while the body runs; the value is a list, with their `Answers` at its end.

        Raises: UserError if a request had no answer or a wrong one.
        """
        self._ready.clear()
        self._stop.clear()
        running = self._pool.apply_async(_ask_until_stopped, (address, count))
        if not self._ready.wait(TIMEOUT_S):
            running.get(0.0 if running.ready() else TIMEOUT_S)
        results = []
        try:
            yield results
        finally:
            self._stop.set()
            results.append(running.get(2 * TIMEOUT_S))
        check_errors(results[0].errors)
        self._check_answers(results[0])

    def _check_answers(self, result):
        from rnn_serving.model import OUTPUT_KEY
        from rnn_serving.quiet_tensorflow import tf

        from tensorflow_serving.apis import predict_pb2

        messages = (predict_pb2.PredictResponse.FromString(answer) for _, _, answer in result.answered)
        scores = np.concatenate([tf.make_ndarray(message.outputs[OUTPUT_KEY]) for message in messages])
        if not np.allclose(scores, self._expected[[index for index, _, _ in result.answered]], atol=1e-3):
            raise UserError("answers under load differ from the model's; expected the same logits")


def check_errors(errors):
    """Raise UserError if there are any: a figure without them would be too good."""
    if errors:
        raise UserError(f"{len(errors)} requests failed, the first with {errors[0]}; expected an answer to each")


def _keep(*shared):
    """Keep what the process needs for every task: the requests and the events."""
    global _shared
    _shared = shared


def _ask_until_stopped(address, callers):
    return asyncio.run(_ask_concurrently(address, callers))


async def _ask_concurrently(address, callers):
    """Ask over one channel until told to stop; return the `Answers`."""
    requests, ready, stop = _shared
    results, is_stopped = Answers([], [], 0.0, 0.0), asyncio.Event()
    async with grpc.aio.insecure_channel(address, LOCAL_CHANNEL) as channel:
        # Bytes in and out: the generator is to cost as little of the machine as it can.
        predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        await predict(requests[0], timeout=TIMEOUT_S)
        ready.set()
        began, cpu_began = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as tasks:
            for number in range(callers):
                tasks.create_task(_ask_on_and_on(predict, requests, number, is_stopped, results))
            await asyncio.to_thread(stop.wait)
            is_stopped.set()
        results.elapsed_s, results.cpu_s = time.perf_counter() - began, time.process_time() - cpu_began
    return results


async def _ask_on_and_on(predict, requests, index, is_stopped, results):
    """Ask one request after the other, from `index` on, until told to stop or until one fails."""
    while not is_stopped.is_set():
        index = (index + 1) % len(requests)
        began = time.perf_counter()
        try:
            answer = await predict(requests[index], timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            results.errors.append(f"{error.code().name}: {error.details()}")
            return
        results.answered.append((index, time.perf_counter() - began, answer))
