"""The model server answers any input over gRPC and REST with a proper error, and goes on serving."""

import contextlib
import gzip
import http.client
import json
import math
import re
import socket
import sys
from urllib.parse import quote_from_bytes

import conformance_models
import grpc
import pytest
from conftest import started
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from benchmarks import server_processes
from rnn_serving.quiet_tensorflow import tf

from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_pb2,
    predict_pb2,
    regression_pb2,
)

LIMIT_S = 10

REQUESTS = {
    "/tensorflow.serving.PredictionService/Predict": predict_pb2.PredictRequest,
    "/tensorflow.serving.PredictionService/Classify": classification_pb2.ClassificationRequest,
    "/tensorflow.serving.PredictionService/Regress": regression_pb2.RegressionRequest,
    "/tensorflow.serving.PredictionService/MultiInference": inference_pb2.MultiInferenceRequest,
    "/tensorflow.serving.PredictionService/GetModelMetadata": get_model_metadata_pb2.GetModelMetadataRequest,
    "/tensorflow.serving.ModelService/GetModelStatus": get_model_status_pb2.GetModelStatusRequest,
    "/tensorflow.serving.ModelService/HandleReloadConfigRequest": model_management_pb2.ReloadConfigRequest,
}
PREDICT, CLASSIFY, REGRESS, MULTI_INFERENCE, METADATA, STATUS, RELOAD = REQUESTS

# Codes for invalid requests, and for requests that do not fit these models. Any other code blames the server.
ANSWERS = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
ANSWERS |= {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.UNIMPLEMENTED}
STATUSES = {200, 400, 404, 501}
# The C++ server cuts details at 1,024 bytes and appends a mark.
LONGEST_DETAILS = 1024 + len("...TRUNCATED") + 3

fuzzed = settings(max_examples=150, deadline=None, derandomize=False, suppress_health_check=list(HealthCheck))

CONFIG = "model_config_list {{ {} }}"
MODEL_CONFIG = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" }}'


class Target:
    """The server under test: `call` uses gRPC, `ask` REST."""

    def __init__(self, channel, rest_port):
        self._channel, self.rest_port = channel, rest_port
        self._connection = http.client.HTTPConnection("127.0.0.1", rest_port, timeout=LIMIT_S)

    def close(self):
        """Close the HTTP connection, which all requests share."""
        self._connection.close()

    def call(self, method, content):
        """Return (code, details) of a gRPC request, given as bytes."""
        call = self._channel.unary_unary(method).future(content, timeout=LIMIT_S)
        return call.code(), call.details()

    def ask(self, method, path, body=None, headers=None):
        """Return (status, body) of an HTTP request."""
        try:
            self._connection.request(method, path, body, headers or {})
            response = self._connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()  # the next example gets a new one
            raise


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running server with the conformance models."""
    directory = tmp_path_factory.mktemp("models")
    conformance_models.build_all(directory)
    names = ("half", "kinds", "judge", "modern")
    config = directory / "models.config"
    config.write_text(CONFIG.format(" ".join(MODEL_CONFIG.format(name, directory) for name in names)))
    rest_port = server_processes.free_port()
    command = [sys.executable, "-m", "rnn_serving.model_server", f"--port={server_processes.free_port()}"]
    command += [f"--rest_api_port={rest_port}", f"--model_config_file={config}"]
    with started(*command, ready=r"Running gRPC ModelServer at (\S+)") as process:
        process.wait_for("Exporting HTTP/REST API")
        with grpc.insecure_channel(process.ready[1], [("grpc.enable_http_proxy", 0)]) as channel:
            with contextlib.closing(Target(channel, rest_port)) as target:
                yield target


@pytest.fixture(autouse=True)
def _valid_requests_are_answered_before_and_after(server):
    _check_valid_requests(server)
    yield
    _check_valid_requests(server)


def _check_valid_requests(server):
    assert server.call(PREDICT, GOOD[PREDICT][0].SerializeToString()) == (grpc.StatusCode.OK, "")
    status, body = server.ask("POST", "/v1/models/half:predict", b'{"instances": [[2]]}')
    assert (status, json.loads(body)) == (200, {"predictions": [[4.0]]})


# gRPC


def spec(name, signature=""):
    return model_pb2.ModelSpec(name=name, signature_name=signature)


def examples(*values):
    request_input = input_pb2.Input()
    for value in values:
        request_input.example_list.examples.add().features.feature["x"].float_list.value.append(value)
    return request_input


def with_context(value):
    request_input = input_pb2.Input()
    context_list = request_input.example_list_with_context
    context_list.examples.add().features.feature["x"].float_list.value.append(value)
    context_list.context.features.feature["c"].bytes_list.value.append(b"not \xff utf-8")
    return request_input


def predict_request(model_spec, **inputs):
    return predict_pb2.PredictRequest(
        model_spec=model_spec, inputs={alias: tf.make_tensor_proto(value) for alias, value in inputs.items()}
    )


TASKS = [
    inference_pb2.InferenceTask(model_spec=spec("half", "regress"), method_name=conformance_models.REGRESS),
    inference_pb2.InferenceTask(model_spec=spec("half", "classify"), method_name=conformance_models.CLASSIFY),
]

GOOD = {
    PREDICT: [
        predict_request(spec("half"), x=[[1.0], [2.0]]),
        predict_request(spec("kinds"), a=[1.0], b=[2.0, 3.0]),
        predict_request(spec("kinds", "defaulted"), a=[1.0]),
        predict_request(spec("kinds", "same_string"), x=[b"one", b"two"]),
        predict_request(spec("modern"), x=[1.0]),
    ],
    CLASSIFY: [
        classification_pb2.ClassificationRequest(model_spec=spec("judge"), input=examples(1.0, 2.0)),
        classification_pb2.ClassificationRequest(model_spec=spec("judge", "context"), input=with_context(1.0)),
    ],
    REGRESS: [regression_pb2.RegressionRequest(model_spec=spec("judge", "regress"), input=examples(1.0, 2.0))],
    MULTI_INFERENCE: [inference_pb2.MultiInferenceRequest(tasks=TASKS, input=examples(1.0))],
    METADATA: [
        get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec("kinds"), metadata_field=["signature_def"])
    ],
    STATUS: [get_model_status_pb2.GetModelStatusRequest(model_spec=spec("half"))],
    RELOAD: [model_management_pb2.ReloadConfigRequest(metric_names=["/tensorflow/serving/request_count"])],
}


def call_and_check(server, method, content):
    """Send the bytes of a request; check that the code is OK or blames the request."""
    code, details = server.call(method, content)
    try:
        REQUESTS[method].FromString(content)
    except DecodeError:
        # gRPC itself answers this, in C++ as in Python, before the server sees the request.
        assert (code, details) == (grpc.StatusCode.INTERNAL, "Exception deserializing request!")
    else:
        assert code in ANSWERS, (code, details)
        # Details travel in a header: with more than 8 KiB, clients get an error of gRPC instead.
        assert len(details.encode()) <= LONGEST_DETAILS


def assume_harmless(method, content):
    """Skip requests that are harmful but valid: those that unload the models or fill the memory."""
    try:
        request = REQUESTS[method].FromString(content)
    except DecodeError:
        return
    if method == RELOAD:
        assume(request.config.WhichOneof("config") != "model_config_list")
    if method == PREDICT:
        # One value is repeated to fill the shape. A shape beyond the address space is refused at once.
        sizes = [math.prod(dim.size for dim in tensor.tensor_shape.dim) for tensor in request.inputs.values()]
        assume(all(size <= 1000 or size >= 2**48 for size in sizes))


@st.composite
def mutations(draw, originals):
    """Bytes that differ from one of the originals in a few places."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        content[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=4))
    return bytes(content)


methods = st.sampled_from(list(REQUESTS))


@fuzzed
@given(methods, st.binary(max_size=300))
def test_random_bytes_over_grpc_are_answered(server, method, content):
    assume_harmless(method, content)
    call_and_check(server, method, content)


def mutated_calls(method):
    originals = [request.SerializeToString() for request in GOOD[method]]
    return st.tuples(st.just(method), mutations(originals))


@fuzzed
@given(methods.flatmap(mutated_calls))
def test_requests_with_a_few_wrong_bytes_over_grpc_are_answered(server, call):
    assume_harmless(*call)
    call_and_check(server, *call)


names = st.sampled_from(["half", "kinds", "judge", "modern", "nope", ""]) | st.text(max_size=20)
# Without `slow`, whose time its input determines.
SIGNATURES = ["", "classify", "regress", "context", "defaulted", "any", "total", "uneven", "product", "nothing"]
SIGNATURES += ["both", "bytes", "to_half", "method_predict", "wholes", "two_inputs", "wrong_input", "unequal", "score"]
SIGNATURES += ["__saved_model_init_op", "regress_column", "regress_fixed", "only_classes", "fixed_classes"]
SIGNATURES += [f"same_{dtype}" for dtype in conformance_models.SAME_DTYPES]
integers = st.sampled_from([0, 1, 2, -1, 2**31 - 1, 2**31, 2**62, 2**63 - 1, -(2**63)]) | st.integers(-9, 9)
specs = st.builds(
    model_pb2.ModelSpec,
    name=names,
    signature_name=st.sampled_from(SIGNATURES) | st.text(max_size=20),
    version=st.none() | st.builds(lambda value: {"value": value}, integers),
) | st.builds(model_pb2.ModelSpec, name=names, version_label=st.text(max_size=20))

floats = st.floats(allow_nan=True, width=32)
small = st.lists(st.integers(0, 255), max_size=4)
SHAPES = st.lists(integers, max_size=4) | st.integers(0, 300).map(lambda rank: [1] * rank)


any_dtype = st.sampled_from(types_pb2.DataType.values()) | st.integers(-1, 300)


@st.composite
def tensors(draw, dtypes=any_dtype):
    """TensorProtos of any dtype, shape and fields, consistent or not."""
    tensor = tensor_pb2.TensorProto(dtype=draw(dtypes))
    for size in draw(SHAPES):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_shape.unknown_rank = draw(st.integers(0, 9)) == 9
    fields = st.sampled_from(["float_val", "double_val", "int_val", "int64_val", "uint64_val", "half_val", "bool_val"])
    for field in draw(st.lists(fields, max_size=2)):
        getattr(tensor, field).extend(draw(small.map(lambda v: [bool(x) for x in v]) if field == "bool_val" else small))
    tensor.string_val.extend(draw(st.lists(st.binary(max_size=9), max_size=3)))
    tensor.tensor_content = draw(st.binary(max_size=32))
    return tensor


aliases = st.sampled_from(["x", "a", "b", "x_bytes", "inputs"]) | st.text(max_size=9)
predict_requests = st.builds(
    predict_pb2.PredictRequest,
    model_spec=st.none() | specs,
    inputs=st.dictionaries(aliases, tensors(), max_size=3),
    output_filter=st.lists(st.sampled_from(["y", "sum", "diff", "x"]) | st.text(max_size=9), max_size=2),
)


def same_dtype_request(dtype):
    """Requests that reach the model, whose signature returns the tensor."""
    number = tf.as_dtype(dtype).as_datatype_enum
    model_spec = spec("kinds", f"same_{dtype}")
    return tensors(st.just(number)).map(
        lambda tensor: predict_pb2.PredictRequest(model_spec=model_spec, inputs={"x": tensor})
    )


def shaped(*sizes, dtype=types_pb2.DT_FLOAT, **values):
    """Return a PredictRequest with a tensor of the given shape."""
    tensor = tensor_pb2.TensorProto(dtype=dtype, **values)
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    return predict_pb2.PredictRequest(model_spec=spec("kinds", "any"), inputs={"x": tensor})


@fuzzed
@given(predict_requests | st.sampled_from(conformance_models.SAME_DTYPES).flatmap(same_dtype_request))
@example(shaped(*[1] * 65, float_val=[1.0]))
@example(shaped(*[1] * 255, float_val=[1.0]))
@example(shaped(0, 2**62, 2**62))
@example(shaped(2**62, 2**62, float_val=[1.0]))
@example(shaped(2**50, float_val=[1.0]))
@example(shaped(2**50, dtype=types_pb2.DT_UINT8))
@example(predict_pb2.PredictRequest(model_spec=spec("\N{PILE OF POO}" * 2000)))
def test_tensors_of_any_content_over_grpc_are_answered(server, request_):
    content = request_.SerializeToString()
    assume_harmless(PREDICT, content)
    call_and_check(server, PREDICT, content)


features = st.builds(
    feature_pb2.Feature, float_list=st.builds(feature_pb2.FloatList, value=st.lists(floats, max_size=3))
)
features |= st.builds(
    feature_pb2.Feature, bytes_list=st.builds(feature_pb2.BytesList, value=st.lists(st.binary(max_size=9), max_size=3))
)
features |= st.builds(
    feature_pb2.Feature,
    int64_list=st.builds(feature_pb2.Int64List, value=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3)),
)
feature_names = st.sampled_from(["x", "c", "n"]) | st.text(max_size=9)
random_examples = st.builds(
    example_pb2.Example,
    features=st.builds(feature_pb2.Features, feature=st.dictionaries(feature_names, features, max_size=3)),
)
lists = st.lists(random_examples, max_size=3)
inputs = st.builds(input_pb2.Input, example_list=st.builds(input_pb2.ExampleList, examples=lists)) | st.builds(
    input_pb2.Input,
    example_list_with_context=st.builds(
        input_pb2.ExampleListWithContext, examples=lists, context=st.none() | random_examples
    ),
)
method_names = st.sampled_from([conformance_models.CLASSIFY, conformance_models.REGRESS, conformance_models.PREDICT])
tasks = st.builds(inference_pb2.InferenceTask, model_spec=specs, method_name=method_names | st.text(max_size=9))


@fuzzed
@given(
    st.builds(classification_pb2.ClassificationRequest, model_spec=specs, input=inputs)
    | st.builds(regression_pb2.RegressionRequest, model_spec=specs, input=inputs)
    | st.builds(
        inference_pb2.MultiInferenceRequest,
        tasks=st.lists(tasks | st.sampled_from(TASKS), max_size=3),
        input=st.none() | inputs,
    )
    | st.builds(
        get_model_metadata_pb2.GetModelMetadataRequest,
        model_spec=specs,
        metadata_field=st.lists(st.just("signature_def") | st.text(max_size=9), max_size=2),
    )
    | st.builds(get_model_status_pb2.GetModelStatusRequest, model_spec=st.none() | specs)
    | st.builds(model_management_pb2.ReloadConfigRequest, metric_names=st.lists(st.text(max_size=9), max_size=3))
)
def test_examples_and_names_of_any_content_over_grpc_are_answered(server, request_):
    method = next(method for method, kind in REQUESTS.items() if kind is type(request_))
    call_and_check(server, method, request_.SerializeToString())


# REST


def ask_and_check(server, method, path, body=None, headers=None):
    """Send an HTTP request; check that the answer has a form of the API."""
    status, answer = server.ask(method, path, body, headers)
    assert status in STATUSES, (status, answer)
    if method == "BREW":
        assert status == 400  # not a method of HTTP
    elif not path.lower().startswith("/v1/"):
        assert status == 404
    elif not answer:
        assert method == "OPTIONS" or re.search("/versions/[0-9]{19,}", path, re.IGNORECASE), status
    else:
        # Answers quote the request, whether it is UTF-8 or not.
        parsed = json.loads(answer.decode("utf-8", "surrogateescape"))
        if status != 200:
            assert parsed.keys() == {"error"}
            assert isinstance(parsed["error"], str)


CALL_PATHS = [f"/v1/models/half:{verb}" for verb in ("predict", "classify", "regress")]
CALL_PATHS += ["/v1/models/kinds:predict", "/v1/models/judge:classify", "/v1/models/modern:predict"]
call_paths = st.sampled_from(CALL_PATHS)
numbers = st.integers() | st.floats() | st.sampled_from([2**63, 2**64, -(2**63) - 1, 1e39, 5e-324, 10**30])
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=9) | st.builds(lambda t: {"b64": t}, st.text(max_size=9)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(aliases | feature_names, inner, max_size=3),
    max_leaves=12,
)
keys = st.sampled_from(["instances", "inputs", "signature_name", "examples", "context"])
documents = (
    st.dictionaries(keys, json_values, max_size=3)
    | st.builds(
        lambda key, value, signature: {key: value, "signature_name": signature},
        keys,
        json_values,
        st.sampled_from(SIGNATURES),
    )
    | json_values
)


@fuzzed
@given(call_paths, documents, st.booleans())
def test_json_of_any_content_is_answered(server, path, document, ascii_only):
    ask_and_check(server, "POST", path, json.dumps(document, ensure_ascii=ascii_only).encode())


GOOD_JSON = [
    b'{"instances": [[1], [2.5e0]]}',
    b'{"signature_name": "serving_default", "inputs": {"a": [1, 2], "b": [3, -4]}}',
    b'{"instances": [{"a": 1, "b": 2}]}',
    b'{"signature_name": "same_string", "instances": ["\\u00fc\\ud83d\\ude00", {"b64": "AAE="}]}',
    b'{"signature_name": "regress", "context": {"c": "x"}, "examples": [{"x": 1.0}, {"x": NaN, "n": [1, true]}]}',
]


@fuzzed
@given(call_paths, mutations(GOOD_JSON) | st.binary(max_size=99) | st.text(max_size=99).map(str.encode))
@example("/v1/models/half:classify", b'{"signature_name": "\xff", "examples": [{"x": 1.0}]}')
@example("/v1/models/half:regress", b'{"signature_name": "\xff", "examples": [{"x": 1.0}]}')
@example("/v1/models/half:predict", b'{"signature_name": "\xff", "instances": [[1]]}')
@example("/v1/models/half:classify", b'{"examples": [{"\xff": "\xff"}], "context": {"x": {"b64": "\xff"}}}')
@example("/v1/models/half:predict", b'{"instances": [' + b"9" * 5000 + b"]}")
@example("/v1/models/half:predict", b'{"instances": [1.' + b"9" * 5000 + b"e-" + b"9" * 5000 + b"]}")
def test_bodies_that_are_not_quite_json_are_answered(server, path, body):
    ask_and_check(server, "POST", path, body)


@fuzzed
@given(
    call_paths,
    st.integers(1, 3000),
    st.sampled_from([("[", "]"), ('{"a":', "}"), ('[{"x":', "}]")]),
    st.booleans(),
    st.sampled_from(['{"instances":%s}', '{"inputs":%s}', '{"examples":[{"x":%s}]}', "%s"]),
)
@example("/v1/models/half:predict", 65, ("[", "]"), True, '{"instances":%s}')
@example("/v1/models/half:predict", 255, ("[", "]"), True, '{"inputs":%s}')
@example("/v1/models/half:predict", 480, ("[", "]"), False, '{"inputs":%s}')
@example("/v1/models/half:predict", 480, ("[", "]"), True, "%s")
@example("/v1/models/half:predict", 480, ('{"a":', "}"), True, '{"instances":%s}')
@example("/v1/models/half:predict", 100_000, ("[", "]"), True, "%s")
def test_json_of_any_depth_is_answered(server, path, depth, brackets, closed, frame):
    opening, closing = brackets
    body = frame % (opening * depth + "1" + closing * depth * closed)
    ask_and_check(server, "POST", path, body.encode())


@fuzzed
@given(
    call_paths,
    mutations([gzip.compress(body, mtime=0) for body in GOOD_JSON])
    | mutations(GOOD_JSON).map(gzip.compress)
    | st.binary(max_size=99),
)
def test_bodies_that_are_not_quite_gzip_are_answered(server, path, body):
    ask_and_check(server, "POST", path, body, {"Content-Encoding": "gzip"})


PARTS = ["/v1/models", "/v1/", "/V1/models/", "/half", "/kinds", "/versions/", "/labels/", "1", "9" * 20, "/metadata"]
PARTS += [":predict", ":PREDICT", ":classify", ":regress", "?a=b", "#c", "%", "%00", "%2F", "%ff", "//", "/..", ":", ""]
parts = st.sampled_from(PARTS) | st.binary(max_size=9).map(quote_from_bytes)
parts |= st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=9)
paths = st.lists(parts, max_size=5).map("".join)
paths = paths.map(lambda path: "/" + path) | paths.map(lambda path: "/v1/models/half" + path)
verbs = st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"])
origins = st.sampled_from([{}, {"Origin": "http://a.example"}, {"Origin": "null"}])


@fuzzed
@given(verbs, paths, st.sampled_from([None, *GOOD_JSON]), origins)
@example("GET", "/v1/models/half/versions/" + "9" * 5000, None, {})
@example("POST", "/v1/models/half/versions/" + "9" * 5000 + ":predict", b'{"instances": [1]}', {})
def test_any_path_and_method_is_answered(server, method, path, body, headers):
    ask_and_check(server, method, path, body, headers)


@pytest.mark.parametrize("path", ["/v1/models/half", "/v1/models/half:predict", "/nope"])
def test_the_answer_to_head_has_no_body(server, path):
    # A client would read a body as the start of the next answer on this connection.
    with socket.create_connection(("127.0.0.1", server.rest_port), timeout=LIMIT_S) as connection:
        connection.sendall(f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.endswith(b"\r\n\r\n")


# NumPy allows 64 dimensions, but TensorFlow's conversion of strings allows 32.
@pytest.mark.parametrize("rank", [32, 33, 64, 65, 254, 255])
def test_strings_of_any_rank_are_answered(server, rank):
    request = shaped(*[1] * rank, dtype=types_pb2.DT_STRING, string_val=[b"a"])
    request.model_spec.signature_name = "same_string"
    call_and_check(server, PREDICT, request.SerializeToString())
    nested = "[" * rank + '"a"' + "]" * rank
    for key in ("inputs", "instances"):
        body = f'{{"signature_name": "same_string", "{key}": {nested}}}'
        ask_and_check(server, "POST", "/v1/models/kinds:predict", body.encode())
