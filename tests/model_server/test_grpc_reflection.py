import signal
import time

import grpc
import pytest
from conftest import start_model_server
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from rnn_serving.model_server.grpc_reflection_service import SERVICES

from tensorflow_serving.apis import get_model_status_pb2

Request = reflection_pb2.ServerReflectionRequest
NOT_FOUND, INVALID = grpc.StatusCode.NOT_FOUND.value[0], grpc.StatusCode.INVALID_ARGUMENT.value[0]


@pytest.fixture(scope="module", params=[(), ("--enable_batching", "--enable_grpc_healthcheck_service")], ids=str)
def server(request, export_base):
    """A server without batching and one with it, which has the health service as well."""
    with start_model_server(export_base, *request.param) as running:
        running.names = {"tensorflow.serving.PredictionService", "tensorflow.serving.ModelService", *SERVICES}
        running.names |= {"grpc.health.v1.Health"} if request.param else set()
        yield running


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.ready[1]) as channel:
        yield channel


def reflect(channel, service, *requests):
    """Return the answers to requests in one call."""
    method = channel.stream_stream(
        f"/{service}/ServerReflectionInfo",
        Request.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    return list(method(iter(requests), timeout=20))


@pytest.mark.parametrize("service", SERVICES)
def test_both_versions_list_all_services(server, channel, service):
    (answer,) = reflect(channel, service, Request(list_services=""))
    assert {found.name for found in answer.list_services_response.service} == server.names


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("symbol", ["tensorflow.serving.PredictionService", "tensorflow.TensorProto", *SERVICES])
def test_both_versions_describe_services_and_messages_with_all_they_depend_on(channel, service, symbol):
    (answer,) = reflect(channel, service, Request(file_containing_symbol=symbol))
    contents = answer.file_descriptor_response.file_descriptor_proto
    files = {file.name: file for file in map(descriptor_pb2.FileDescriptorProto.FromString, contents)}
    package, _, name = symbol.rpartition(".")
    (found,) = [file for file in files.values() if name in [each.name for each in (*file.service, *file.message_type)]]
    assert found.package == package
    assert {dependency for file in files.values() for dependency in file.dependency} <= set(files)


@pytest.mark.parametrize("symbol", ["tensorflow.serving.PredictionService.Predict", "tensorflow.TensorProto.dtype"])
def test_methods_and_fields_are_found_too(channel, symbol):
    parent = symbol.rpartition(".")[0]
    answers = reflect(channel, SERVICES[0], *(Request(file_containing_symbol=name) for name in (symbol, parent)))
    assert answers[0].file_descriptor_response == answers[1].file_descriptor_response
    assert answers[0].HasField("file_descriptor_response")


@pytest.mark.parametrize("service", SERVICES)
def test_requests_are_answered_one_by_one_and_unknown_ones_with_an_error(channel, service):
    answers = reflect(
        channel,
        service,
        Request(file_containing_symbol="no.such.Symbol"),
        Request(file_by_filename="no_such_file.proto"),
        Request(all_extension_numbers_of_type="tensorflow.TensorProto"),
        Request(),
        Request(list_services="*"),
    )
    codes = [answer.error_response.error_code for answer in answers]
    assert codes == [NOT_FOUND, NOT_FOUND, 0, INVALID, 0]


def test_a_client_finds_and_calls_a_method_by_reflection_alone(channel):
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    service = pool.FindServiceByName("tensorflow.serving.ModelService")
    assert "GetModelStatus" in service.methods_by_name
    request = get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "mnist"}).SerializeToString()
    answer = channel.unary_unary(f"/{service.full_name}/GetModelStatus")(request, timeout=20)
    assert get_model_status_pb2.GetModelStatusResponse.FromString(answer).model_version_status[0].version == 1


@pytest.mark.parametrize("flags", [(), ("--enable_batching",)], ids=str)
def test_open_calls_hold_up_neither_other_calls_nor_the_stop(export_base, flags):
    with start_model_server(export_base, *flags) as server, grpc.insecure_channel(server.ready[1]) as channel:
        call = channel.stream_stream(f"/{SERVICES[0]}/ServerReflectionInfo")
        silent = [call(_never(), timeout=60) for _ in range(64)]
        status = channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus")
        status(get_model_status_pb2.GetModelStatusRequest(model_spec={"name": "mnist"}).SerializeToString(), timeout=20)
        began = time.monotonic()
        assert server.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 8  # calls in flight would have 10 s
        for stream in silent:
            stream.cancel()


def _never():
    """Yield nothing for a minute: a client that keeps its call open."""
    time.sleep(60)
    yield b""
