import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from benchmarks import http2_frames
from benchmarks.invalid_answer import InvalidAnswer
from benchmarks.load_connections import GRPCTarget

METHOD = "/test.Service/Echo"


class Echo(grpc.GenericRpcHandler):
    """Answers with the request, or fails as it asks."""

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(self.answer) if details.method == METHOD else None

    def answer(self, request, context):
        if request == b"fail":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many " + "callers " * 40)
        if request == b"stall":
            time.sleep(0.5)
        return request


@pytest.fixture(scope="module", params=[(), (("grpc.max_concurrent_streams", 3),)], ids=["", "3 streams"])
def address(request):
    server = grpc.server(ThreadPoolExecutor(8), [Echo()], options=request.param)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0)


def asked(address, messages, method=METHOD, timeout_s=20):
    """The answers, or errors, to messages that are sent at the same time."""

    async def ask_all():
        connection = GRPCTarget(address, messages, method).connect()
        asking = (asyncio.wait_for(connection.ask(index), timeout_s) for index in range(len(messages)))
        answers = await asyncio.gather(*asking, return_exceptions=True)
        await connection.close()
        return answers

    return asyncio.run(ask_all())


@pytest.mark.parametrize(
    "messages",
    [[b""], [b"one"], [b"%d" % number * 3000 for number in range(100)], [b"a" * 3_000_000, b"b" * 100_000, b"c"]],
    ids=["empty", "one", "more than a window at once", "more than a window each"],
)
def test_answers_come_back_whole(address, messages):
    assert asked(address, messages) == messages


def test_an_error_has_the_status_and_the_message(address):
    error, answer = asked(address, [b"fail", b"one"])
    assert isinstance(error, InvalidAnswer)
    assert str(error) == "RESOURCE_EXHAUSTED: too many " + "callers " * 40
    assert answer == b"one"
    (error,) = asked(address, [b"one"], "/test.Service/Unknown")
    assert str(error) == "UNIMPLEMENTED: Method not found!"


def test_a_call_that_takes_too_long_does_not_hold_up_the_others(address):
    late, *others = asked(address, [b"stall", *[b"one"] * 5], timeout_s=0.2)
    assert isinstance(late, TimeoutError)
    assert others == [b"one"] * 5


def test_a_server_that_is_not_there_is_an_error():
    (error,) = asked("127.0.0.1:9", [b"one"])
    assert isinstance(error, ConnectionRefusedError)


def test_a_server_that_goes_away_fails_the_calls_and_is_found_again():
    async def run():
        server = grpc.server(ThreadPoolExecutor(1), [Echo()])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        connection = GRPCTarget(f"127.0.0.1:{port}", [b"one", b"stall"], METHOD).connect()
        assert await connection.ask(0) == b"one"
        stalled = asyncio.create_task(connection.ask(1))
        await asyncio.sleep(0.1)
        server.stop(0).wait()
        with pytest.raises((OSError, InvalidAnswer)):
            await stalled
        server = grpc.server(ThreadPoolExecutor(1), [Echo()])
        server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        await asyncio.sleep(0.1)
        assert await connection.ask(0) == b"one"
        await connection.close()
        server.stop(0)

    asyncio.run(run())


def test_a_text_is_read_from_a_header_block_if_it_is_plain():
    long = "x" * 300
    block = http2_frames.header_block([("grpc-status", "8")])
    block += b"\0\x0cgrpc-message\x7f\xad\x01" + long.encode()
    assert http2_frames.literal(block, b"grpc-status") == "8"
    assert http2_frames.literal(block, b"grpc-message") == long
    assert http2_frames.literal(block, b"other") is None
    assert http2_frames.literal(b"\0\x04name\x81\x07", b"name") is None
