"""Everything a client of TensorFlow Serving can see, tested on our server or the one that `--server_command` starts.

The models are those of conformance_models.py. Where an error of TensorFlow Serving quotes a protobuf, only the text
before it is compared (`Starts`); where the order of its answers varies, a tuple lists the alternatives.
The tables are laid out by hand, to keep each row on few lines.
"""

import contextlib
import gzip
import http.client
import json
import re
import shlex
import shutil
import sys
import time
from dataclasses import dataclass, field

import conformance_models
import grpc
import pytest
import requests
from google.protobuf import json_format, text_format, wrappers_pb2
from google.protobuf.message import Message

from benchmarks import server_processes
from rnn_serving.quiet_tensorflow import tf

from tensorflow.core.example import example_pb2
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.core.framework.tensor_shape_pb2 import TensorShapeProto
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    input_pb2,
    model_management_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from tensorflow_serving.config import file_system_storage_path_source_pb2, model_server_config_pb2

INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
FAILED, UNIMPLEMENTED = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED
CLASSIFY, REGRESS = conformance_models.CLASSIFY, conformance_models.REGRESS
NAN, INFINITY = float("nan"), float("inf")
CALL_LIMIT_S, CHANGE_LIMIT_S = 30, 20

METHODS = {
    predict_pb2.PredictRequest: "Predict",
    classification_pb2.ClassificationRequest: "Classify",
    regression_pb2.RegressionRequest: "Regress",
    inference_pb2.MultiInferenceRequest: "MultiInference",
    get_model_metadata_pb2.GetModelMetadataRequest: "GetModelMetadata",
    get_model_status_pb2.GetModelStatusRequest: "GetModelStatus",
    model_management_pb2.ReloadConfigRequest: "HandleReloadConfigRequest",
}


class Starts(str):
    """The beginning of an expected text; the rest is not compared."""


@dataclass(frozen=True)
class Call:
    """A gRPC request and its answer: a message, or the code and details of an error."""

    name: str
    request: Message
    answer: Message | str | tuple
    code: grpc.StatusCode = grpc.StatusCode.OK


@dataclass(frozen=True)
class Ask:
    """A REST request and its answer: parsed JSON, or the text of an error; "half:predict" is under /v1/models/."""

    name: str
    path: str
    body: str | bytes | None
    status: int
    answer: object
    method: str = "POST"
    headers: dict = field(default_factory=dict)


def rows(*table):
    """Parametrize a test with the rows of a table."""
    return pytest.mark.parametrize("row", table, ids=lambda row: row.name.replace(" ", "_"))


@dataclass(frozen=True)
class Reply:
    """An HTTP response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Server:
    """A running server and its clients for gRPC and REST."""

    def __init__(self, channel, rest_port):
        self.channel, self._rest_port = channel, rest_port
        self._stubs = (
            prediction_service_pb2_grpc.PredictionServiceStub(channel),
            model_service_pb2_grpc.ModelServiceStub(channel),
        )

    def start_call(self, request, timeout_s=CALL_LIMIT_S):
        """Send a gRPC request; return a future."""
        method = METHODS[type(request)]
        stub = next(stub for stub in self._stubs if hasattr(stub, method))
        return getattr(stub, method).future(request, timeout=timeout_s)

    def call(self, request, timeout_s=CALL_LIMIT_S):
        """Return (code, answer) of a gRPC request; the answer is a message or the details of an error."""
        return outcome(self.start_call(request, timeout_s))

    def call_together(self, *sent):
        """Send several gRPC requests at the same time; return (code, answer) of each."""
        return [outcome(future) for future in [self.start_call(request) for request in sent]]

    def ask(self, method, path, body=None, headers=None):
        """Return the Reply to an HTTP request; the path is sent unchanged."""
        connection = http.client.HTTPConnection("127.0.0.1", self._rest_port, timeout=CALL_LIMIT_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())


def outcome(future):
    """Wait for a call; return (code, message or details)."""
    error = future.exception()
    return (future.code(), future.details()) if error else (future.code(), future.result())


def check_call(server, row):
    """Compare code and answer of a gRPC call with its row."""
    code, got = server.call(row.request)
    assert code == row.code, got
    assert as_text(got) == expected(as_text(got), row.answer)


def check_ask(server, row):
    """Compare status, type and content of a REST answer with its row."""
    path = row.path if row.path.startswith("/") else f"/v1/models/{row.path}"
    body = row.body.encode() if isinstance(row.body, str) else row.body
    reply = server.ask(row.method, path, body, row.headers)
    assert reply.status == row.status, reply.body
    assert reply.headers["Content-Type"] == "application/json"
    got = json.loads(reply.body)
    if row.status == 200:
        assert canonical(got) == canonical(row.answer)
    else:
        assert got.keys() == {"error"}
        assert got["error"] == expected(got["error"], row.answer)


def expected(got, answer):
    """Return `got` if it matches `answer` or one of a tuple of answers, else the first answer."""
    options = answer if isinstance(answer, tuple) else (answer,)
    whole = [got if isinstance(o, Starts) and got.startswith(o) else as_text(o) for o in options]
    return got if got in whole else whole[0]


def as_text(answer):
    """Return a message as text, where NaN equals NaN; return a text unchanged."""
    return text_format.MessageToString(answer) if isinstance(answer, Message) else answer


def canonical(value):
    """Return JSON with sorted keys, where 3 and 3.0 differ, as they do for a client."""
    return json.dumps(value, sort_keys=True, indent=1)


def eventually(ask, wanted, limit_s=CHANGE_LIMIT_S):
    """Call `ask` until it returns `wanted`."""
    deadline = time.monotonic() + limit_s
    while (got := ask()) != wanted and time.monotonic() < deadline:
        time.sleep(0.05)
    assert got == wanted


# Servers


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The directory with all models."""
    directory = tmp_path_factory.mktemp("models")
    conformance_models.build_all(directory)
    return directory


@pytest.fixture(scope="module")
def start(request, models, tmp_path_factory):
    """A function that starts a server with models and flags, and returns it once all models are available."""
    named = request.config.getoption("--server_command", default=None)
    command = shlex.split(named) if named else [sys.executable, "-m", "rnn_serving.model_server"]

    with contextlib.ExitStack() as stack:

        def run(configs, *flags, **files):
            directory = tmp_path_factory.mktemp("config")
            files["model_config_file"] = text_format.MessageToString(model_list(*configs))
            for flag, text in files.items():
                (directory / flag).write_text(text)
            ports = server_processes.free_port(), server_processes.free_port()
            flags += tuple(f"--{flag}={directory / flag}" for flag in files)
            options = [("grpc.enable_http_proxy", 0), ("grpc.max_receive_message_length", -1)]
            channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{ports[0]}", options))

            def ready():
                for config in configs:
                    _raise_unless_available(f"http://127.0.0.1:{ports[1]}/v1/models/{config.name}")
                grpc.channel_ready_future(channel).result(timeout=1)

            line = [*command, f"--port={ports[0]}", f"--rest_api_port={ports[1]}", *flags]
            stack.enter_context(server_processes.running(line, ready))
            return Server(channel, ports[1])

        yield run


def _raise_unless_available(url):
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(url, timeout=CALL_LIMIT_S)
        answer.raise_for_status()
        states = {version["state"] for version in answer.json()["model_version_status"]}
        if states != {"AVAILABLE"}:
            raise requests.RequestException(f"{url}: {states}")


def model(models, name, directory=None, versions=None, labels=None, **config):
    """Return a ModelConfig; `versions` is "all", how many of the newest, or a list of them."""
    model_config = model_server_config_pb2.ModelConfig(name=name, model_platform="tensorflow", **config)
    model_config.base_path = model_config.base_path or str(models / (directory or name))
    policy = file_system_storage_path_source_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy()
    if versions == "all":
        policy.all.SetInParent()
    elif isinstance(versions, int):
        policy.latest.num_versions = versions
    elif versions:
        policy.specific.versions.extend(versions)
    if versions:
        model_config.model_version_policy.CopyFrom(policy)
    model_config.version_labels.update(labels or {})
    return model_config


def model_list(*configs):
    """Return a ModelServerConfig."""
    server_config = model_server_config_pb2.ModelServerConfig()
    server_config.model_config_list.SetInParent()
    server_config.model_config_list.config.extend(configs)
    return server_config


@pytest.fixture(scope="module")
def main(start, models):
    """A server with hardly any flags."""
    return start(
        [model(models, "half", versions="all")]
        + [model(models, name) for name in ("kinds", "judge", "modern", "counter", "sparse", "odd")]
    )


# Requests and answers


def spec(name, signature="", version=None, label=None):
    """Return a ModelSpec."""
    model_spec = model_pb2.ModelSpec(name=name, signature_name=signature)
    if version is not None:
        model_spec.version.CopyFrom(wrappers_pb2.Int64Value(value=version))
    if label is not None:
        model_spec.version_label = label
    return model_spec


def tensor(dtype, shape=None, **values):
    """Return a TensorProto; without a shape it has none."""
    proto = tensor_pb2.TensorProto(dtype=getattr(types_pb2, f"DT_{dtype}"), **values)
    if shape is not None:
        proto.tensor_shape.CopyFrom(TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in shape]))
    return proto


def floats(*values, shape=None):
    """Return a float tensor in the typed field; a vector unless a shape says otherwise."""
    return tensor("FLOAT", [len(values)] if shape is None else shape, float_val=values)


def predict(model_spec, *output_filter, **inputs):
    """Return a PredictRequest; a name is a ModelSpec."""
    model_spec = spec(model_spec) if isinstance(model_spec, str) else model_spec
    return predict_pb2.PredictRequest(model_spec=model_spec, inputs=inputs, output_filter=output_filter)


def predicted(model_spec, **outputs):
    """Return a PredictResponse."""
    return predict_pb2.PredictResponse(model_spec=model_spec, outputs=outputs)


def example(**features):
    """Return an Example with lists of floats, ints or bytes."""
    message = example_pb2.Example()
    for name, values in features.items():
        kind = {float: "float_list", int: "int64_list", bytes: "bytes_list"}[type(values[0])]
        getattr(message.features.feature[name], kind).value.extend(values)
    return message


def listed(*examples):
    """Return an Input."""
    return input_pb2.Input(example_list=input_pb2.ExampleList(examples=examples))


ONE, TWO_AND_FOUR = listed(example(x=[1.0])), listed(example(x=[2.0]), example(x=[4.0]))


def classify(model_spec, examples=ONE):
    """Return a ClassificationRequest."""
    return classification_pb2.ClassificationRequest(model_spec=model_spec, input=examples)


def regress(model_spec, examples=ONE):
    """Return a RegressionRequest."""
    return regression_pb2.RegressionRequest(model_spec=model_spec, input=examples)


def classes(*examples):
    """Return a ClassificationResult of lists of (label, score)."""
    result = classification_pb2.ClassificationResult()
    for pairs in examples:
        result.classifications.add().classes.extend(
            classification_pb2.Class(label=label, score=score) for label, score in pairs
        )
    return result


def values(*numbers):
    """Return a RegressionResult."""
    return regression_pb2.RegressionResult(regressions=[regression_pb2.Regression(value=n) for n in numbers])


def classified(model_spec, *examples):
    """Return a ClassificationResponse."""
    return classification_pb2.ClassificationResponse(model_spec=model_spec, result=classes(*examples))


def regressed(model_spec, *numbers):
    """Return a RegressionResponse."""
    return regression_pb2.RegressionResponse(model_spec=model_spec, result=values(*numbers))


def infer(*tasks, examples=ONE):
    """Return a MultiInferenceRequest of (ModelSpec or None, method name)."""
    request = inference_pb2.MultiInferenceRequest(input=examples)
    for model_spec, method in tasks:
        request.tasks.add(model_spec=model_spec, method_name=method)
    return request


def inferred(*results):
    """Return a MultiInferenceResponse of (ModelSpec, result)."""
    response = inference_pb2.MultiInferenceResponse()
    for model_spec, result in results:
        kind = "regression_result" if isinstance(result, regression_pb2.RegressionResult) else "classification_result"
        response.results.add(model_spec=model_spec, **{kind: result})
    return response


def metadata(model_spec=None, *fields):
    """Return a GetModelMetadataRequest."""
    return get_model_metadata_pb2.GetModelMetadataRequest(model_spec=model_spec, metadata_field=fields)


def status(model_spec=None):
    """Return a GetModelStatusRequest."""
    return get_model_status_pb2.GetModelStatusRequest(model_spec=model_spec)


def states(**versions):
    """Return a GetModelStatusResponse: states(v2="AVAILABLE", v1="END")."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, state in versions.items():
        state = get_model_status_pb2.ModelVersionStatus.State.Value(state)
        response.model_version_status.add(version=int(version[1:]), state=state).status.SetInParent()
    return response


def refused(name, request, details, code=INVALID):
    """Return the row of a request and the error it gets."""
    return Call(name, request, details, code)


# gRPC: which model

X = floats(1.0, shape=[1, 1])
NO_SPEC = {"no model_spec": (None, "Missing ModelSpec", INVALID)}
LOOKUPS = {
    "empty name": (spec(""), "ModelSpec has no name specified.", INVALID),
    "unknown name": (spec("nope"), "Servable not found for request: Latest(nope)", NOT_FOUND),
    "version that is not there": (
        spec("half", version=5),
        "Servable not found for request: Specific(half, 5)",
        NOT_FOUND,
    ),
    "version of an unknown model": (
        spec("nope", version=5),
        "Servable not found for request: Specific(nope, 5)",
        NOT_FOUND,
    ),
    "version 0 does not mean the newest": (
        spec("half", version=0),
        "Servable not found for request: Specific(half, 0)",
        NOT_FOUND,
    ),
    "unknown label": (spec("half", label="gold"), "Unrecognized servable version label: gold", INVALID),
    "label of an unknown model": (spec("nope", label="gold"), "Unrecognized servable version label: gold", INVALID),
    "empty label": (spec("half", label=""), "Unrecognized servable version label: ", INVALID),
}
ASKING = {
    "Predict": lambda model_spec: predict(model_spec, x=X),
    "Classify": classify,
    "Regress": regress,
    "GetModelMetadata": lambda model_spec: metadata(model_spec, "signature_def"),
}


@rows(
    *(
        refused(f"{method} {name}", ask(model_spec), details, code)
        for method, ask in ASKING.items()
        for name, (model_spec, details, code) in (NO_SPEC | LOOKUPS).items()
    ),
    *(
        refused(f"MultiInference {name}", infer((model_spec, REGRESS)), details, code)
        for name, (model_spec, details, code) in LOOKUPS.items()
    ),
)  # fmt: skip
def test_every_call_reports_a_missing_model_in_the_same_words(main, row):
    check_call(main, row)


def test_without_a_version_the_highest_answers(main):
    for model_spec, version, y in (
        (spec("half"), 2, 3.5),
        (spec("half", version=2), 2, 3.5),
        (spec("half", version=1), 1, 2.5),
    ):
        answer = predicted(spec("half", "serving_default", version), y=floats(y, shape=[1, 1]))
        check_call(main, Call("", predict(model_spec, x=X), answer))


def test_a_version_is_a_directory_whose_whole_name_is_a_number(main):
    check_call(main, Call("", status(spec("sparse")), states(v4="AVAILABLE")))


# gRPC: Predict

PAIR = {"a": floats(1.0, 5.0), "b": floats(2.0, 3.0)}
PAIR_SPEC = spec("kinds", "serving_default", 7)
SUM, DIFFERENCE = floats(3.0, 8.0), floats(-1.0, 2.0)


@rows(
    Call("an empty signature name is resolved", predict("kinds", **PAIR),
        predicted(PAIR_SPEC, sum=SUM, diff=DIFFERENCE)),
    Call("an output filter chooses", predict("kinds", "diff", **PAIR), predicted(PAIR_SPEC, diff=DIFFERENCE)),
    Call("a filter of all is all", predict("kinds", "diff", "sum", **PAIR),
        predicted(PAIR_SPEC, sum=SUM, diff=DIFFERENCE)),
    Call("a scalar output", predict(spec("kinds", "total", 7), x=floats(1.0, 2.0)),
        predicted(spec("kinds", "total", 7), y=floats(3.0, shape=[]))),
    Call("outputs may differ in their first dimension", predict(spec("kinds", "uneven"), x=floats(1.0, 2.0)),
        predicted(spec("kinds", "uneven", 7), once=floats(1.0, 2.0), twice=floats(1.0, 2.0, 1.0, 2.0))),
    Call("a signature without inputs", predict(spec("kinds", "nothing")),
        predicted(spec("kinds", "nothing", 7), y=floats(5.0))),
    Call("a method name that says classify", predict(spec("judge", "float_input"), inputs=X),
        predicted(spec("judge", "float_input", 1), scores=X)),
    Call("an unknown method name", predict(spec("kinds", "odd_method"), x=floats(1.0)),
        predicted(spec("kinds", "odd_method", 7), y=floats(1.0))),
    Call("a TensorFlow 2 export", predict("modern", x=floats(2.0, 4.0)),
        predicted(spec("modern", "serving_default", 1), y=floats(3.0, 4.0))),
    Call("a default fills in for a missing input", predict(spec("kinds", "defaulted"), a=floats(1.0)),
        predicted(spec("kinds", "defaulted", 7), sum=floats(11.0), diff=floats(-9.0))),
    Call("a given input goes before its default", predict(spec("kinds", "defaulted"), a=floats(1.0), b=floats(4.0)),
        predicted(spec("kinds", "defaulted", 7), sum=floats(5.0), diff=floats(-3.0))),
)  # fmt: skip
def test_predict_answers_every_output_under_its_alias(main, row):
    check_call(main, row)


@pytest.mark.parametrize("shape", [[], [1], [3], [1, 3], [3, 1, 1], [0, 1]], ids=str)
def test_predict_leaves_shapes_to_the_ops(main, shape):
    count = int(tf.TensorShape(shape).num_elements())
    answer = predicted(spec("half", "serving_default", 2), y=floats(*[4.0] * count, shape=shape))
    check_call(main, Call("", predict("half", x=floats(*[2.0] * count, shape=shape)), answer))


@rows(
    refused("unknown signature", predict(spec("half", "nope"), x=X), 'Serving signature key "nope" not found.', FAILED),
    refused("unknown signature goes before wrong inputs", predict(spec("half", "nope")),
        'Serving signature key "nope" not found.', FAILED),
    refused("no inputs", predict("kinds"),
        "input size does not match signature: 0!=2 len({}) != len({a,b}). Sent extra: {}. "
        "Missing but required: {a,b}."),
    refused("one input too few", predict("kinds", b=floats(1.0)),
        "input size does not match signature: 1!=2 len({b}) != len({a,b}). Sent extra: {}. Missing but required: {a}."),
    refused("inputs too many", predict("half", z=X, x=X, c=X),
        "input size does not match signature: 3!=1 len({c,x,z}) != len({x}). Sent extra: {c,z}. "
        "Missing but required: {}."),
    refused("inputs too many where there are defaults", predict(spec("kinds", "defaulted"), c=X, **PAIR),
        "input size does not match signature: 3!=2 len({a,b,c}) != len({a,b}). Sent extra: {c}. "
        "Missing but required: {}."),
    refused("the right number of inputs by a wrong name", predict("half", z=X),
        "Signature input alias: x(feed name: x:0) not found in request and no default value provided. "
        "Inputs expected to be in the request {z}, or default input alias set: "),
    refused("the input that has no default", predict(spec("kinds", "defaulted"), b=floats(1.0)),
        "Signature input alias: a(feed name: a:0) not found in request and no default value provided. "
        "Inputs expected to be in the request {b}, or default input alias set: b"),
    refused("a wrong name while a default fills in", predict(spec("kinds", "defaulted"), a=floats(1.0), z=floats(1.0)),
        Starts("Inputs contains invalid name. ")),
    refused("wrong inputs go before a wrong filter", predict("half", "nope", z=X),
        Starts("Signature input alias: x(feed name: x:0) not found in request")),
    refused("an input that cannot be decoded goes before a wrong filter",
        predict("half", "nope", x=tensor("FLOAT", [1], tensor_content=b"abc")), "tensor parsing error: x"),
    refused("unknown output", predict("kinds", "sum", "nope", **PAIR),
        "output tensor alias not found in signature: nope Outputs expected to be in the set {diff,sum}."),
    refused("an output asked twice", predict("kinds", "sum", "sum", **PAIR), "duplicate output tensor alias: sum"),
    refused("another dtype", predict("half", x=tensor("INT32", [1, 1], int_val=[1])),
        "Expects arg[0] to be float but int32 is provided"),
    refused("a string for a number", predict("half", x=tensor("STRING", [1, 1], string_val=[b"1"])),
        "Expects arg[0] to be float but string is provided"),
    refused("a shape that an op refuses", predict(spec("kinds", "product"), x=floats(1.0, 2.0, 3.0, shape=[1, 3])),
        "Matrix size-incompatible: In[0]: [1,3], In[1]: [2,1]\n\t [[{{node product}}]]"),
    refused("an entry of TensorFlow 2 that is not a real signature", predict(spec("modern", "__saved_model_init_op")),
        Starts("Node 'NoOp'"), grpc.StatusCode.OUT_OF_RANGE),
)  # fmt: skip
def test_predict_refuses_what_it_cannot_run_in_this_order(main, row):
    check_call(main, row)


def same(name, dtype, sent, got=None):
    """Return the row of a tensor that an identity signature returns."""
    model_spec = spec("kinds", f"same_{dtype}")
    return Call(name, predict(model_spec, x=sent), predicted(spec("kinds", f"same_{dtype}", 7), y=got or sent))


@rows(
    same("half_val", "float16", tensor("HALF", [2], half_val=[15360, 64512])),
    same("half_val of bfloat16", "bfloat16", tensor("BFLOAT16", [2], half_val=[16256, 49024])),
    same("float_val", "float32", floats(1.5, -0.0, INFINITY, NAN)),
    same("double_val", "float64", tensor("DOUBLE", [2], double_val=[0.1, -1e300])),
    same("int_val of int8", "int8", tensor("INT8", [2], int_val=[-128, 127])),
    same("int_val of int16", "int16", tensor("INT16", [2], int_val=[-32768, 32767])),
    same("int_val of int32", "int32", tensor("INT32", [2], int_val=[-(2**31), 2**31 - 1])),
    same("int_val of uint8", "uint8", tensor("UINT8", [2], int_val=[0, 255])),
    same("int_val of uint16", "uint16", tensor("UINT16", [2], int_val=[0, 65535])),
    same("int64_val", "int64", tensor("INT64", [2], int64_val=[-(2**63), 2**63 - 1])),
    same("uint32_val", "uint32", tensor("UINT32", [2], uint32_val=[0, 2**32 - 1])),
    same("uint64_val", "uint64", tensor("UINT64", [2], uint64_val=[0, 2**64 - 1])),
    same("bool_val", "bool", tensor("BOOL", [3], bool_val=[True, False, True])),
    same("string_val", "string", tensor("STRING", [3], string_val=[b"a", b"\xff\x00", b""])),
    same("scomplex_val", "complex64", tensor("COMPLEX64", [2], scomplex_val=[1, 2, 3, 4])),
    same("dcomplex_val", "complex128", tensor("COMPLEX128", [1], dcomplex_val=[0.1, -2])),
    same("equal elements are all written", "float32", floats(7.0, 7.0, 7.0)),
    same("no elements", "float32", floats()),
    same("many dimensions", "int32", tensor("INT32", [2, 1, 2], int_val=[1, 2, 3, 4])),
    same("content is read", "float32", tensor("FLOAT", [1], tensor_content=b"\x00\x00\xc0\x3f"), floats(1.5)),
    same("content of strings is read", "string", tensor("STRING", [2], tensor_content=b"\x01\x02abc"),
        tensor("STRING", [2], string_val=[b"a", b"bc"])),
    same("fewer values repeat the last", "float32", floats(1.0, 2.0, shape=[4]), floats(1.0, 2.0, 2.0, 2.0)),
    same("no values are zeros", "float32", floats(shape=[2]), floats(0.0, 0.0)),
    same("more values are cut", "float32", floats(1.0, 2.0, 3.0, shape=[2]), floats(1.0, 2.0)),
    same("no shape is a scalar of the first", "float32", tensor("FLOAT", float_val=[8.0, 9.0]), floats(8.0, shape=[])),
    same("int8 keeps the low byte", "int8", tensor("INT8", [2], int_val=[300, -200]),
        tensor("INT8", [2], int_val=[44, 56])),
    same("no strings are empty ones", "string", tensor("STRING", [2]), tensor("STRING", [2], string_val=[b"", b""])),
    same("a wrong field is not read", "float32", tensor("FLOAT", [2], int_val=[1, 2]), floats(0.0, 0.0)),
)  # fmt: skip
def test_tensors_are_read_as_in_cpp_and_written_in_the_typed_field(main, row):
    check_call(main, row)


@rows(
    *(
        refused(name, predict(spec("kinds", "any"), x=sent), "tensor parsing error: x")
        for name, sent in {
            "content of another size": tensor("FLOAT", [2], tensor_content=b"\x00" * 7),
            "no dtype": tensor_pb2.TensorProto(float_val=[1.0]),
            "unknown dtype": tensor_pb2.TensorProto(dtype=99, float_val=[1.0]),
            "negative dimension": floats(1.0, shape=[-1]),
        }.items()
    ),
)  # fmt: skip
def test_a_tensor_that_cannot_be_decoded_is_named(main, row):
    check_call(main, row)


def test_a_variable_keeps_its_value_between_calls(main):
    def value(signature):
        code, answer = main.call(predict(spec("counter", signature)))
        assert code == grpc.StatusCode.OK, answer
        return tf.make_ndarray(answer.outputs["count"]).item()

    before = value("read")
    assert [value("add"), value("add"), value("read")] == [before + 1, before + 2, before + 2]


def test_a_message_larger_than_grpcs_default_limit_is_answered(main):
    count = 1_200_000
    sent = tensor("FLOAT", [count], tensor_content=b"\x00\x00\x80\x3f" * count)
    code, answer = main.call(predict(spec("kinds", "same_float32"), x=sent))
    assert code == grpc.StatusCode.OK, answer
    assert len(answer.outputs["y"].float_val) == count


@pytest.mark.parametrize("server", ["main", "batching"])
def test_the_deadline_of_a_call_ends_it_and_the_model_call(request, server):
    server = request.getfixturevalue(server)
    began = time.monotonic()
    code, _ = server.call(predict(spec("kinds", "slow"), x=floats(1e8, 1.0, 1.0, 1.0)), timeout_s=0.4)
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    # With batching, one thread serves all calls: it must be free again.
    code, answer = server.call(predict(spec("kinds", "slow"), x=floats(1.0, 1.0, 1.0, 1.0)))
    assert code == grpc.StatusCode.OK, answer
    assert time.monotonic() - began < CALL_LIMIT_S / 2


def test_long_details_are_cut_and_marked(main):
    name = "n" * 3000
    details = f"Servable not found for request: Latest({name})"[:1024] + "...TRUNCATED"
    check_call(main, refused("", predict(name, x=X), details, NOT_FOUND))


# gRPC: Classify and Regress


def judge(signature="", version=None):
    """Return the spec of the model with classify and regress signatures."""
    return spec("judge", signature, version)


CONTEXT = input_pb2.Input(
    example_list_with_context=input_pb2.ExampleListWithContext(
        context=example(c=[b"hello"]), examples=[example(x=[1.0]), example(x=[2.0], c=[b"own"])]
    )
)


@rows(
    Call("classes and scores in order", classify(judge(), TWO_AND_FOUR),
        classified(judge("serving_default", 1), [("no", 2.0), ("yes", 4.0)], [("no", 4.0), ("yes", 8.0)])),
    Call("scores without classes have no label", classify(judge("only_scores")),
        classified(judge("only_scores", 1), [("", 1.0), ("", 2.0)])),
    Call("classes without scores score 0", classify(judge("only_classes")),
        classified(judge("only_classes", 1), [("no", 0.0), ("yes", 0.0)])),
    Call("the method name does not matter", classify(judge("method_predict")),
        classified(judge("method_predict", 1), [("", 1.0), ("", 2.0)])),
    Call("a TensorFlow 2 export classifies", classify(spec("modern", "classify"), TWO_AND_FOUR),
        classified(spec("modern", "classify", 1), [("", 3.0)], [("", 4.0)])),
    Call("a context is part of every example", classify(judge("context"), CONTEXT),
        classified(judge("context", 1), [("hello", 0.0)], [("own", 0.0)])),
    Call("a value each", regress(judge("regress"), TWO_AND_FOUR), regressed(judge("regress", 1), 3.0, 5.0)),
    Call("a column of values", regress(judge("regress_column"), TWO_AND_FOUR),
        regressed(judge("regress_column", 1), 3.0, 5.0)),
    Call("a TensorFlow 2 export regresses", regress(spec("modern", "regress")),
        regressed(spec("modern", "regress", 1), 2.5)),
    Call("the version asked for", regress(spec("half", "regress", 1)), regressed(spec("half", "regress", 1), 2.5)),
)  # fmt: skip
def test_classify_and_regress_answer_one_entry_for_each_example(main, row):
    check_call(main, row)


PARSE_NODE = "\n\t [[{{node parse_examples/parse_examples}}]]"


@rows(
    *(
        refused(f"{ask.__name__} {name}", ask(judge(signature), examples), details)
        for ask in (classify, regress)
        for name, signature, examples, details in (
            ("unknown signature", "nope", ONE, "No signature was found with the name: nope"),
            ("no input", "only_scores" if ask is classify else "regress", None, "Input is empty."),
            ("empty list", "only_scores" if ask is classify else "regress", listed(), "Input is empty."),
            (
                "context and no examples",
                "only_scores" if ask is classify else "regress",
                input_pb2.Input(example_list_with_context={"context": example(x=[1.0])}),
                "Input is empty.",
            ),
            (
                "an example without the feature",
                "only_scores" if ask is classify else "regress",
                listed(example_pb2.Example()),
                "Name: <unknown>, Feature: x (data type: float) is required but could not be found." + PARSE_NODE,
            ),
            (
                "a feature of another type",
                "only_scores" if ask is classify else "regress",
                listed(example(x=[1])),
                "Name: <unknown>, Key: x, Index: 0.  Data types don't match. Data type: int64 but expected type: float"
                + PARSE_NODE,
            ),
        )
    ),
    *(
        refused(f"classify {signature}", classify(judge(signature)), details)
        for signature, details in {
            "two_inputs": "Expected one input Tensor.",
            "wrong_input": Starts("No classification inputs found in SignatureDef: "),
            "wrong_output": Starts(
                'Expected classification signature outputs to contain at least one of "classes" or "scores". '
                "Signature was: "
            ),
            "regress": Starts('Expected classification signature outputs to contain at least one of "classes" or '),
            "three_outputs": "Expected one or two output Tensors, found 3",
            "float_input": "Expects arg[0] to be float but string is provided",
            "flat_scores": "Expected Tensor shape: [batch_size num_classes] but got [1]",
            "flat_classes": "Expected Tensor shape: [batch_size num_classes] but got [1]",
            "float_classes": "Expected classes Tensor of DT_STRING. Got: DT_FLOAT",
            "whole_scores": "Expected scores Tensor of DT_FLOAT. Got: DT_INT32",
            "fixed_scores": "Expected scores output batch size of 1. Got: 3",
            "fixed_classes": "Expected classes output batch size of 1. Got: 3",
            "unequal": "Tensors class and score should match in dim_size(1). Got 2 vs. 3",
        }.items()
    ),
    *(
        refused(f"regress {signature or 'a classify signature'}", regress(judge(signature)), details)
        for signature, details in {
            "regress_two_inputs": "Expected one input Tensor.",
            "regress_two_outputs": "Expected one output Tensor.",
            "": "Expected one output Tensor.",
            "regress_wrong_input": Starts("No regression inputs found in SignatureDef: "),
            "regress_wrong_output": Starts("No regression outputs found in SignatureDef: "),
            "regress_wide": "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [1,2]",
            "regress_fixed": "Input batch size did not match output batch size: 1 vs. 3",
            "regress_whole": "Expected output Tensor of DT_FLOAT.  Got: DT_INT32",
        }.items()
    ),
)  # fmt: skip
def test_classify_and_regress_refuse_a_signature_of_another_form(main, row):
    check_call(main, row)


# gRPC: MultiInference


@rows(
    Call("each task has its result and spec",
        infer((judge("regress"), REGRESS), (judge(), CLASSIFY), examples=TWO_AND_FOUR),
        inferred((judge("regress", 1), values(3.0, 5.0)),
            (judge("serving_default", 1), classes([("no", 2.0), ("yes", 4.0)], [("no", 4.0), ("yes", 8.0)])))),
    Call("all tasks use the version of the first",
        infer((spec("half", "regress", 1), REGRESS), (spec("half", "classify", 2), CLASSIFY)),
        inferred((spec("half", "regress", 1), values(2.5)), (spec("half", "classify", 1), classes([("", 2.5)])))),
    Call("a TensorFlow 2 export", infer((spec("modern", "classify"), CLASSIFY)),
        inferred((spec("modern", "classify", 1), classes([("", 2.5)])))),
    refused("no tasks", infer(), "ModelSpec has no name specified."),
    refused("a task without a spec", infer((None, CLASSIFY)), "ModelSpec has no name specified."),
    refused("a later task without a name", infer((judge("regress"), REGRESS), (spec(""), CLASSIFY)),
        "Found ModelSpec with an empty model name."),
    refused("different models", infer((judge("regress"), REGRESS), (spec("half", "classify"), CLASSIFY)),
        "All ModelSpecs in a MultiInferenceRequest must access the same model name."),
    refused("a signature twice", infer((judge(), CLASSIFY), (judge("serving_default"), CLASSIFY)),
        "Duplicate evaluation of signature: serving_default"),
    refused("an unknown signature", infer((judge("regress"), REGRESS), (judge("nope"), CLASSIFY)),
        "Requested signature not found in model graph: nope"),
    refused("another method", infer((judge("regress"), conformance_models.PREDICT)),
        "Unsupported signature method_name: tensorflow/serving/predict", UNIMPLEMENTED),
    refused("no method", infer((judge("regress"), "")), "Unsupported signature method_name: ", UNIMPLEMENTED),
    refused("a signature of the other form", infer((judge("only_scores"), REGRESS)),
        Starts("No regression outputs found in SignatureDef: ")),
    Call("signatures with inputs of their own",
        infer((judge("regress"), REGRESS), (judge("regress_other"), REGRESS), examples=listed(example(x=[2.0]))),
        inferred((judge("regress", 1), values(3.0)), (judge("regress_other", 1), values(2.0)))),
    Call("a TensorFlow 2 export, whose signatures never share an input",
        infer((spec("modern", "regress"), REGRESS), (spec("modern", "classify"), CLASSIFY), examples=TWO_AND_FOUR),
        inferred((spec("modern", "regress", 1), values(3.0, 4.0)),
            (spec("modern", "classify", 1), classes([("", 3.0)], [("", 4.0)])))),
    Call("two with one input and one with another",
        infer((judge("regress_column"), REGRESS), (judge("regress_other"), REGRESS), (judge("only_scores"), CLASSIFY)),
        inferred((judge("regress_column", 1), values(2.0)), (judge("regress_other", 1), values(1.0)),
            (judge("only_scores", 1), classes([("", 1.0), ("", 2.0)])))),
    refused("an input of another type", infer((judge("regress"), REGRESS), (judge("float_input"), CLASSIFY)),
        ("Expects arg[1] to be float but string is provided", "Expects arg[0] to be float but string is provided")),
    refused("no input", infer((judge("regress"), REGRESS), examples=None), "Input is empty."),
    refused("a result of another form", infer((judge(), CLASSIFY), (judge("regress_wide"), REGRESS)),
        "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [1,2]"),
)  # fmt: skip
def test_multi_inference_runs_all_tasks_or_names_the_invalid_one(main, row):
    check_call(main, row)


# Signatures with tensors that the graph lacks


def odd(signature):
    """Return the spec of the model with such signatures."""
    return spec("odd", signature)


@pytest.mark.parametrize("kind", conformance_models.ODD_TENSORS)
def test_a_signature_with_an_odd_tensor_leaves_the_other_signatures_and_outputs_alone(main, kind):
    x = floats(1.0, 2.0)
    check_call(main, Call("", predict("odd", x=x), predicted(spec("odd", "serving_default", 1), y=x)))
    answer = predicted(spec("odd", f"{kind}_output", 1), y=x)
    check_call(main, Call("", predict(odd(f"{kind}_output"), "y", x=x), answer))


@pytest.mark.parametrize("kind", conformance_models.ODD_TENSORS)
def test_a_signature_with_an_odd_tensor_is_refused_when_it_is_called(main, kind):
    x, words, code = floats(1.0), Starts("Tensor "), INVALID
    if kind == "no_such_output":
        words, code = Starts("Node 'y' "), grpc.StatusCode.OUT_OF_RANGE
    for request in (
        predict(odd(f"{kind}_output"), x=x),
        predict(odd(f"{kind}_output"), "y", "odd", x=x),
        predict(odd(f"{kind}_input"), x=x),
        classify(odd(f"{kind}_classify")),
        regress(odd(f"{kind}_regress")),
        infer((odd("regress"), REGRESS), (odd(f"{kind}_classify"), CLASSIFY)),
    ):
        check_call(main, refused("", request, words, code))
    for path, content in (
        ("odd:predict", body(signature_name=f"{kind}_output", instances=[1.0])),
        ("odd:predict", body(signature_name=f"{kind}_output", inputs=[1.0])),
        ("odd:classify", body(signature_name=f"{kind}_classify", examples=[{"x": 1.0}])),
        ("odd:regress", body(signature_name=f"{kind}_regress", examples=[{"x": 1.0}])),
    ):
        check_ask(main, Ask("", path, content, 400, words))


@rows(
    Ask("an input", "odd:predict", '{"signature_name": "lacking_input", "instances": [1.0]}', 400, Starts("Tensor ")),
    Ask("an empty input", "odd:predict", '{"signature_name": "lacking_input", "inputs": []}', 400, Starts("Tensor ")),
    Ask("an input without a type", "odd:predict", '{"signature_name": "empty_input", "inputs": [1.0]}', 501,
        "Conversion of JSON Value: 1.0 to type: INVALID"),
    Ask("an empty input without a type", "odd:predict", '{"signature_name": "empty_input", "inputs": []}', 400,
        Starts("Tensor ")),
)  # fmt: skip
def test_rest_refuses_an_input_that_the_graph_lacks(main, row):
    check_ask(main, row)


# gRPC: GetModelMetadata and GetModelStatus


def signatures_on_disk(directory):
    """Return the SignatureDefMap of a SavedModel's file."""
    saved = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    return get_model_metadata_pb2.SignatureDefMap(signature_def=saved.meta_graphs[0].signature_def)


@pytest.mark.parametrize(
    ("model_spec", "directory", "version"),
    [
        (spec("half"), "half/2", 2),
        (spec("half", version=1), "half/1", 1),
        (spec("half", "a signature is not looked at"), "half/2", 2),
        (spec("kinds"), "kinds/00000007", 7),
        (spec("modern"), "modern/1", 1),
        (spec("odd"), "odd/1", 1),
    ],
    ids=str,
)
def test_metadata_is_every_signature_of_the_metagraph(main, models, model_spec, directory, version):
    code, answer = main.call(metadata(model_spec, "signature_def"))
    assert code == grpc.StatusCode.OK, answer
    assert answer.model_spec == spec(model_spec.name, version=version)
    assert set(answer.metadata) == {"signature_def"}
    got, wanted = get_model_metadata_pb2.SignatureDefMap(), signatures_on_disk(models / directory)
    assert answer.metadata["signature_def"].Unpack(got)
    assert as_text(got) == as_text(wanted)
    assert ("__saved_model_init_op" in got.signature_def) == (model_spec.name == "modern")


@rows(
    refused("no field", metadata(spec("nope")), "GetModelMetadataRequest must specify at least one metadata_field"),
    refused("no field and an empty spec", metadata(model_pb2.ModelSpec()),
        "GetModelMetadataRequest must specify at least one metadata_field"),
    refused("another field", metadata(spec("nope"), "graph"), "Metadata field graph is not supported"),
    refused("one more field", metadata(spec(""), "signature_def", "graph"), "Metadata field graph is not supported"),
    refused("an empty field", metadata(spec("half", version=9), ""), "Metadata field  is not supported"),
    refused("no field and no spec", metadata(), "Missing ModelSpec"),
    refused("another field and no spec", metadata(None, "graph"), "Missing ModelSpec"),
    refused("one more field and no spec", metadata(None, "signature_def", "graph"), "Missing ModelSpec"),
    refused("an empty field and no spec", metadata(None, ""), "Missing ModelSpec"),
)  # fmt: skip
def test_metadata_fields_are_checked_between_the_spec_and_the_model(main, row):
    check_call(main, row)


@rows(
    Call("versions in descending order", status(spec("half")), states(v2="AVAILABLE", v1="AVAILABLE")),
    Call("one version", status(spec("half", version=1)), states(v1="AVAILABLE")),
    Call("a label is ignored", status(spec("half", label="x")), states(v2="AVAILABLE", v1="AVAILABLE")),
    refused("unknown model", status(spec("nope")), "Could not find any versions of model nope", NOT_FOUND),
    refused("unknown version", status(spec("half", version=5)), "Could not find version 5 of model half", NOT_FOUND),
    refused("empty name", status(spec("")), "Could not find any versions of model ", NOT_FOUND),
    refused("no spec", status(), "Missing ModelSpec"),
)  # fmt: skip
def test_status_lists_the_versions_or_reports_that_there_are_none(main, row):
    check_call(main, row)


# REST: the body of a predict request


def body(**content):
    """Return JSON."""
    return json.dumps(content)


def predictions(*given):
    """Return the answer to `instances`."""
    return {"predictions": list(given)}


def element(number, error, key=None, code="INVALID_ARGUMENT"):
    """Return the error of one of the instances."""
    where = f"{number} key: {key}" if key else f"{number}"
    return f"Failed to process element: {where} of 'instances' list. Error: {code}: {error}"


@rows(
    Ask("row of values", "half:predict", '{"instances": [1.0, 2, -3]}', 200, predictions(3.5, 4.0, 1.5)),
    Ask("row of lists", "half:predict", '{"instances": [[1.0], [2.0]]}', 200, predictions([3.5], [4.0])),
    Ask("row of objects", "half:predict", '{"instances": [{"x": 1}, {"x": 2.0}]}', 200, predictions(3.5, 4.0)),
    Ask("columns of one", "half:predict", '{"inputs": [1.0, 2]}', 200, {"outputs": [3.5, 4.0]}),
    Ask("columns by name", "half:predict", '{"inputs": {"x": [[1.0]]}}', 200, {"outputs": [[3.5]]}),
    Ask("a scalar column", "half:predict", '{"inputs": 4}', 200, {"outputs": 5.0}),
    Ask("a scalar column by name", "half:predict", '{"inputs": {"x": 4}}', 200, {"outputs": 5.0}),
    Ask("an empty column", "half:predict", '{"inputs": []}', 200, {"outputs": []}),
    Ask("a column without an input", "half:predict", '{"inputs": {"x": 4, "z": "z"}}', 200, {"outputs": 5.0}),
    Ask("the version asked for", "half/versions/1:predict", '{"instances": [1]}', 200, predictions(2.5)),
    Ask("a TensorFlow 2 export", "modern:predict", '{"instances": [2, 4]}', 200, predictions(3.0, 4.0)),
    Ask("rows of several", "kinds:predict", '{"instances": [{"a": 1, "b": 2}, {"b": 3, "a": 5}]}', 200,
        predictions({"sum": 3.0, "diff": -1.0}, {"sum": 8.0, "diff": 2.0})),
    Ask("columns of several", "kinds:predict", '{"inputs": {"a": [1, 5], "b": [2, 3]}}', 200,
        {"outputs": {"sum": [3.0, 8.0], "diff": [-1.0, 2.0]}}),
    Ask("columns may differ in their first dimension", "kinds:predict", body(signature_name="uneven", inputs=[1, 2]),
        200, {"outputs": {"once": [1.0, 2.0], "twice": [1.0, 2.0, 1.0, 2.0]}}),
    Ask("scalar output in columns", "kinds:predict", body(signature_name="total", inputs=[1, 2]), 200,
        {"outputs": 3.0}),
    Ask("more answers than instances", "kinds:predict", body(signature_name="twice", instances=[1, 2]), 200,
        predictions(1.0, 2.0, 1.0, 2.0)),
    Ask("no rows", "odd:predict", body(signature_name="positive", instances=[-1.0]), 200, predictions()),
    Ask("no rows of several", "odd:predict", body(signature_name="positive_columns", instances=[-1.0, -2.0]), 200,
        predictions()),
    Ask("no rows in columns", "odd:predict", body(signature_name="positive_columns", inputs=[-1.0]), 200,
        {"outputs": {"wide": [], "y": []}}),
    Ask("some rows", "odd:predict", body(signature_name="positive", instances=[-1.0, 3.0]), 200, predictions(3.0)),
    Ask("rows without elements", "kinds:predict", body(signature_name="any", instances=[[], []]), 200,
        predictions([], [])),
    Ask("unknown keys are ignored", "half:predict", '{"instances": [1], "parameters": {"instances": 3}}', 200,
        predictions(3.5)),
    Ask("of equal keys the first", "half:predict", '{"instances": [1], "instances": [2]}', 200, predictions(3.5)),
    Ask("text after the object", "half:predict", '{"instances": [1]} and so on', 200, predictions(3.5)),
    Ask("a byte order mark", "half:predict", b'\xef\xbb\xbf{"instances": [1]}', 200, predictions(3.5)),
    Ask("blanks", "half:predict", ' \n\t{ "instances" :\r[ 1 ] } ', 200, predictions(3.5)),
    Ask("escapes in keys", "half:predict", r'{"inst\u0061nces": [1]}', 200, predictions(3.5)),
    Ask("any content type", "half:predict", '{"instances": [1]}', 200, predictions(3.5),
        headers={"Content-Type": "text/plain"}),
    *(
        Ask(f"compressed as {encoding}", "half:predict", gzip.compress(b'{"instances": [1]}'), 200, predictions(3.5),
            headers={"Content-Encoding": encoding})
        for encoding in ("gzip", "x-gzip", "gzip, identity", "identity,gzip", "notgzip;q=0")
    ),
    *(
        Ask(f"not compressed in spite of {encoding}", "half:predict", '{"instances": [1]}', 200, predictions(3.5),
            headers={"Content-Encoding": encoding})
        for encoding in ("GZIP", "Gzip", "deflate", "identity", "")
    ),
)  # fmt: skip
def test_rest_predict_answers_rows_with_predictions_and_columns_with_outputs(main, row):
    check_ask(main, row)


NUMBERS = [
    ("float32", "3", 3.0),
    ("float32", "0.1", 0.1),
    ("float32", "9e6", 9e6),
    ("float32", "16777217", 16777216.0),
    ("float32", "0.333333333", 0.333333343),
    ("float32", "123456789", 123456792.0),
    ("float32", "3.4028235e38", 3.40282347e38),
    ("float32", "1e39", INFINITY),
    ("float32", "-1e39", -INFINITY),
    ("float32", "-0.0", -0.0),
    ("float32", "NaN", NAN),
    ("float32", "Inf", INFINITY),
    ("float32", "Infinity", INFINITY),
    ("float32", "-Inf", -INFINITY),
    ("float32", "-Infinity", -INFINITY),
    ("float64", "3", 3.0),
    ("float64", "0.1", 0.1),
    ("float64", "123456789.125", 123456789.125),
    ("float64", "0.30000000000000004", 0.30000000000000004),
    ("float64", "-1.5E300", -1.5e300),
    ("float64", "1e-400", 0.0),
    ("int8", "300", 44),
    ("int8", "-128", -128),
    ("int16", "70000", 4464),
    ("int32", "-0", 0),
    ("int32", "-2147483648", -(2**31)),
    ("int64", "9223372036854775807", 2**63 - 1),
    ("uint8", "-1", 255),
    ("uint32", "4294967295", 2**32 - 1),
    ("uint64", "18446744073709551615", 2**64 - 1),
    ("bool", "true", True),
    ("bool", "false", False),
    ("string", '"a\\u00e9\\ud83d\\ude00\\n\\"\\\\/"', 'aé😀\n"\\/'),
    ("string", '{"b64": "aGk="}', "hi"),
    ("string", '{"b64": "aGk"}', "hi"),
    ("string", '{"b64": "aGk."}', "hi"),
    ("string", '{"b64": " a\\nG\\tk = "}', "hi"),
    ("string", '{"b64": "aA.="}', "h"),
    ("string", '{"b64": "aP=="}', "h"),
    ("string", '{"b64": "  "}', ""),
    ("string", '{"x": {"b64": "aGk="}}', "hi"),
    ("string", '{"b64": ""}', ""),
]


@pytest.mark.parametrize(("dtype", "sent", "got"), NUMBERS, ids=[f"{row[0]} {row[1][:24]}" for row in NUMBERS])
def test_a_value_in_json_becomes_its_dtype_and_comes_back(main, dtype, sent, got):
    text = f'{{"signature_name": "same_{dtype}", "instances": [{sent}]}}'
    check_ask(main, Ask("", "kinds:predict", text, 200, predictions(got)))


NOT_OF_THE_TYPE = [
    ("float32", '"1"', '"1"', "String", "float"),
    ("float32", "true", "true", "True", "float"),
    ("float32", "null", "null", "Null", "float"),
    ("float32", '{"b64": "AA=="}', '{\n    "b64": "AA=="\n}', "Object", "float"),
    ("float64", '"1"', '"1"', "String", "double"),
    ("int8", "1.0", "1.0", "Number", "int8"),
    ("int16", "1.0", "1.0", "Number", "int16"),
    ("int32", "1.0", "1.0", "Number", "int32"),
    ("int32", "1e2", "100.0", "Number", "int32"),
    ("int32", "3000000000", "3000000000", "Number", "int32"),
    ("int32", "false", "false", "False", "int32"),
    ("int64", "9223372036854775808", "9223372036854775808", "Number", "int64"),
    ("uint8", "1.5", "1.5", "Number", "uint8"),
    ("uint32", "-1", "-1", "Number", "uint32"),
    ("uint64", "-1", "-1", "Number", "uint64"),
    ("uint64", "1.5", "1.5", "Number", "uint64"),
    ("bool", "1", "1", "Number", "bool"),
    ("bool", '"true"', '"true"', "String", "bool"),
    ("string", "1", "1", "Number", "string"),
    ("string", "null", "null", "Null", "string"),
]


@pytest.mark.parametrize(
    ("dtype", "sent", "shown", "kind", "name"), NOT_OF_THE_TYPE, ids=[" ".join(row[:2]) for row in NOT_OF_THE_TYPE]
)
def test_a_value_in_json_of_another_type_is_refused(main, dtype, sent, shown, kind, name):
    error = f"JSON Value: {shown} Type: {kind} is not of expected type: {name}"
    text = f'{{"signature_name": "same_{dtype}", "instances": [{sent}]}}'
    check_ask(main, Ask("", "kinds:predict", text, 400, element(0, error)))
    text = f'{{"signature_name": "same_{dtype}", "inputs": {{"x": [{sent}]}}}}'
    check_ask(main, Ask("", "kinds:predict", text, 400, error))


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        ("float16", "half"),
        ("bfloat16", "bfloat16"),
        ("uint16", "uint16"),
        ("complex64", "complex64"),
        ("complex128", "complex128"),
    ],
)
def test_a_dtype_without_json_values_is_refused(main, dtype, name):
    error = f"Conversion of JSON Value: 1 to type: {name}"
    rows_, columns = (body(signature_name=f"same_{dtype}", **{key: [1]}) for key in ("instances", "inputs"))
    check_ask(main, Ask("", "kinds:predict", columns, 501, error))
    check_ask(main, Ask("", "kinds:predict", rows_, 400, element(0, error, code="UNIMPLEMENTED")))


@rows(
    Ask("an alias that ends in _bytes", "kinds:predict",
        body(signature_name="bytes", instances=["hi", {"b64": "/wAB"}]), 200,
        predictions({"b64": "aGk="}, {"b64": "/wAB"})),
    Ask("in columns too", "kinds:predict", body(signature_name="bytes", inputs={"x_bytes": {"b64": "aGk="}}), 200,
        {"outputs": {"b64": "aGk="}}),
    Ask("one of two outputs", "kinds:predict", body(signature_name="both", instances=["hi"]), 200,
        predictions({"plain": "hi", "raw_bytes": {"b64": "aGk="}})),
)  # fmt: skip
def test_only_an_output_alias_that_ends_in_bytes_is_base64(main, row):
    check_ask(main, row)


def test_bytes_under_a_plain_alias_are_written_as_they_are(main):
    text = body(signature_name="same_string", instances=[{"b64": "/wAB"}])
    reply = main.ask("POST", "/v1/models/kinds:predict", text)
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert b'"\xff\\u0000\\u0001"' in reply.body


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("half", '{"instances": [1, 2]}', '{\n    "predictions": [3.5, 4.0\n    ]\n}'),
        ("half", '{"instances": [[1], [2]]}', '{\n    "predictions": [[3.5], [4.0]\n    ]\n}'),
        ("half", '{"inputs": [[1], [2]]}',
            '{\n    "outputs": [\n        [\n            3.5\n        ],\n'
            '        [\n            4.0\n        ]\n    ]\n}'),
        ("half", '{"inputs": []}', '{\n    "outputs": []\n}'),
        ("half", '{"inputs": 1}', '{\n    "outputs": 3.5\n}'),
        ("kinds", '{"instances": [{"a": 1, "b": 2}, {"a": 5, "b": 3}]}',
            '{\n    "predictions": [\n        {\n            "diff": -1.0,\n            "sum": 3.0\n        },\n'
            '        {\n            "diff": 2.0,\n            "sum": 8.0\n        }\n    ]\n}'),
        ("kinds", '{"inputs": {"a": [1], "b": [2]}}',
            '{\n    "outputs": {\n        "diff": [\n            -1.0\n        ],\n'
            '        "sum": [\n            3.0\n        ]\n    }\n}'),
        ("kinds", '{"signature_name": "bytes", "instances": ["a", "b"]}',
            '{\n    "predictions": [{\n            "b64": "YQ=="\n        }, {\n'
            '            "b64": "Yg=="\n        }\n    ]\n}'),
        ("odd", '{"signature_name": "positive", "instances": [-1]}', '{\n    "predictions": []\n}'),
    ],
)  # fmt: skip
def test_answers_are_laid_out_as_rapidjson_does(main, name, content, text):
    got = main.ask("POST", f"/v1/models/{name}:predict", content).body.decode()
    if got != text:  # the order of outputs is that of a hash map in TensorFlow Serving
        assert sorted(re.split(r",?\n", got)) == sorted(re.split(r",?\n", text))


# REST: errors of predict

DOCUMENT = "JSON Value: {\n"
GZIPPED = gzip.compress(b'{"instances": [1]}')


@rows(
    Ask("empty", "half:predict", b"", 400, "JSON Parse error: The document is empty"),
    Ask("an object without an end", "half:predict", "{", 400,
        "JSON Parse error: Missing a name for object member. at offset: 1"),
    Ask("a word", "half:predict", "hello", 400, "JSON Parse error: Invalid value. at offset: 0"),
    Ask("single quotes", "half:predict", "{'instances': [1]}", 400,
        "JSON Parse error: Missing a name for object member. at offset: 1"),
    Ask("no colon", "half:predict", '{"instances" [1]}', 400,
        "JSON Parse error: Missing a colon after a name of object member. at offset: 13"),
    Ask("a list without an end", "half:predict", '{"instances": [1', 400,
        "JSON Parse error: Missing a comma or ']' after an array element. at offset: 16"),
    Ask("no comma", "half:predict", '{"instances": [1] "inputs": 1}', 400,
        "JSON Parse error: Missing a comma or '}' after an object member. at offset: 18"),
    Ask("a comma too many", "half:predict", '{"instances": [1, ]}', 400,
        "JSON Parse error: Invalid value. at offset: 18"),
    Ask("a string without an end", "half:predict", '{"instances": ["a', 400,
        "JSON Parse error: Missing a closing quotation mark in string. at offset: 17"),
    Ask("an unknown escape", "half:predict", r'{"instances": ["a\x"]}', 400,
        "JSON Parse error: Invalid escape character in string. at offset: 17"),
    Ask("no digit after the point", "half:predict", '{"instances": [1.]}', 400,
        "JSON Parse error: Miss fraction part in number. at offset: 17"),
    Ask("no digit in the exponent", "half:predict", '{"instances": [1e]}', 400,
        "JSON Parse error: Miss exponent in number. at offset: 17"),
    Ask("a number beyond double", "half:predict", '{"instances": [1e400]}', 400,
        "JSON Parse error: Number too big to be stored in double. at offset: 15"),
    *(
        Ask(f"gzip that {name}", "half:predict", content, 400, "JSON Parse error: The document is empty",
            headers={"Content-Encoding": "gzip"})
        for name, content in {
            "is none": b'{"instances": [1]}',
            "is empty": b"",
            "is short": b"\x1f\x8b",
            "unpacks to nothing": gzip.compress(b""),
            "is cut": GZIPPED[:-9],
            "lacks its size": GZIPPED[:-4],
            "has a wrong checksum": GZIPPED[:-5] + bytes([GZIPPED[-5] ^ 1]) + GZIPPED[-4:],
            "claims another size": GZIPPED[:-4] + b"\x01\x00\x00\x00",
            "claims a size of 4 GB": GZIPPED[:-4] + b"\xff" * 4,
            "is followed by more": GZIPPED + GZIPPED,
            "unpacks to more than 100 MiB": gzip.compress(b'{"instances": [1]}'.ljust(100 * 2**20 + 1), 1),
        }.items()
    ),
    Ask("gzip that is not JSON", "half:predict", gzip.compress(b"{"), 400,
        "JSON Parse error: Missing a name for object member. at offset: 1", headers={"Content-Encoding": "gzip"}),
    Ask("a raw newline in a string", "half:predict", '{"instances": ["a\n"]}', 400,
        "JSON Parse error: Invalid escape character in string. at offset: 17"),
    Ask("a raw tab in a key", "half:predict", '{"inst\tances": [1]}', 400,
        "JSON Parse error: Invalid escape character in string. at offset: 6"),
    Ask("a zero byte in a string", "half:predict", '{"instances": ["a\0"]}', 400,
        "JSON Parse error: Missing a closing quotation mark in string. at offset: 17"),
    Ask("half a surrogate pair", "half:predict", r'{"instances": ["a\ud800"]}', 400,
        "JSON Parse error: The surrogate pair in string is invalid. at offset: 17"),
    Ask("a list", "half:predict", "[1, 2.5]", 400, "JSON Value: [1, 2.5] Is not object"),
    Ask("a string", "half:predict", '"x"', 400, 'JSON Value: "x" Is not object'),
    Ask("true", "half:predict", "true", 400, "JSON Value: true Is not object"),
    Ask("bad JSON goes before an unknown model", "nope:predict", "", 400, "JSON Parse error: The document is empty"),
    Ask("an invalid signature name goes before an unknown model", "nope:predict", '{"signature_name": 1}', 400,
        DOCUMENT + '    "signature_name": 1\n} not formatted correctly. '
        "'signature_name' key must be a string value."),
    Ask("an unknown model", "nope:predict", "{}", 404, "Servable not found for request: Latest(nope)"),
    Ask("an unknown version", "half/versions/5:predict", "{}", 404,
        "Servable not found for request: Specific(half, 5)"),
    Ask("an unknown label", "half/labels/gold:predict", "{}", 400, "Unrecognized servable version label: gold"),
    Ask("an unknown signature goes before the rest of the body", "half:predict",
        '{"signature_name": "nope", "instances": 3}', 400, 'Serving signature name: "nope" not found in signature def'),
    Ask("a signature without inputs", "kinds:predict", '{"signature_name": "nothing", "inputs": {}}', 400,
        "Failed to get input map for signature: nothing"),
    Ask("neither key", "half:predict", '{"instance": [1]}', 400, "Missing 'inputs' or 'instances' key"),
    Ask("both keys", "half:predict", '{"inputs": 1, "instances": [1]}', 400,
        Starts(DOCUMENT + '    "inputs": 1,\n    "instances": [1]\n} '
            "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist")),
    Ask("instances that are no list", "half:predict", '{"instances": 3}', 400,
        DOCUMENT + "    \"instances\": 3\n} Expecting 'instances' to be an list/array"),
    Ask("instances that are empty", "half:predict", '{"instances": []}', 400,
        DOCUMENT + "    \"instances\": []\n} No values in 'instances' array"),
    Ask("a plain list for two inputs", "kinds:predict", '{"instances": [1]}', 400,
        "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
        "tensorinfo_map"),
    Ask("a plain value for two inputs", "kinds:predict", '{"inputs": [1]}', 400,
        "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
        "tensorinfo_map"),
    Ask("a value among objects", "half:predict", '{"instances": [{"x": 1}, {"x": 1}, 2]}', 400,
        "Expecting object but got list at item 2 of input list"),
    Ask("an object among values", "half:predict", '{"instances": [1, {"x": 1}]}', 400,
        "Expecting value/list but got object at item 1 of input list"),
    Ask("an input missing in a row", "kinds:predict", '{"instances": [{"a": 1, "b": 1}, {"b": 2}]}', 400,
        "Failed to process element: 1 of 'instances' list. JSON object: {\n    \"b\": 2\n} keys must be equal to: a,b"),
    Ask("a default does not help", "kinds:predict", '{"signature_name": "defaulted", "instances": [{"a": 1}]}', 400,
        "Failed to process element: 0 of 'instances' list. JSON object: {\n    \"a\": 1\n} keys must be equal to: a,b"),
    Ask("an unknown input in a row", "kinds:predict", '{"instances": [{"a": 1, "b": 1, "z": 1}]}', 400,
        element(0, "JSON object: does not have named input: z", "z")),
    Ask("a column missing", "kinds:predict", '{"inputs": {"a": 1}}', 400, "Missing named input: b in 'inputs' object."),
    Ask("a column missing that has a default", "kinds:predict", '{"signature_name": "defaulted", "inputs": {"a": 1}}',
        400, "Missing named input: b in 'inputs' object."),
    Ask("rows of unequal size", "half:predict", '{"instances": [[1, 2], [3]]}', 400,
        element(1, "Expecting tensor size: 2 but got: 1")),
    Ask("rows of equal size and unequal shape", "half:predict", '{"instances": [[1, 2], [[3, 4]]]}', 400,
        element(1, "Expecting shape [2] but got: [1,2]")),
    Ask("a scalar row first", "half:predict", '{"instances": [1, [2]]}', 400,
        element(1, "Expecting shape [] but got: [1]")),
    Ask("unequal shape of one of two inputs", "kinds:predict",
        '{"instances": [{"a": 1, "b": [1]}, {"a": 1, "b": [1, 2]}]}', 400,
        element(1, "Expecting tensor size: 1 but got: 2", "b")),
    Ask("a ragged row", "half:predict", '{"instances": [[[1, 2], [3]]]}', 400,
        element(0, "Encountered list at unexpected size: 1 at level: 1 expected size: 2")),
    Ask("a ragged column", "half:predict", '{"inputs": [[1, 2], [3]]}', 400,
        "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
    Ask("a list where a scalar was", "half:predict", '{"inputs": [1, [2]]}', 400,
        "Encountered list at unexpected level: 1 expected < 1"),
    Ask("a scalar where a list was", "half:predict", '{"inputs": [[1], 2]}', 400,
        Starts("JSON Value: 2 found at incorrect level: ")),
    Ask("invalid base64", "kinds:predict", body(signature_name="same_string", instances=[{"b64": "a*b="}]), 400,
        element(0, "Unable to base64 decode")),
    *(
        Ask(f"base64 with {name}", "kinds:predict", body(signature_name="same_string", inputs=[{"b64": text}]), 400,
            "Unable to base64 decode")
        for name, text in {
            "too little padding": "aA=",
            "too much padding": "aGk==",
            "padding alone": "====",
            "padding inside": "aG=k",
            "a single character": "a",
            "the prefix of a data URL": "data:;base64,aGk=",
            "a letter that is not ASCII": "aG\u00e9",
        }.items()
    ),
    Ask("base64 whose key is repeated", "kinds:predict",
        '{"signature_name": "same_string", "inputs": {"x": {"b64": "aGk=", "b64": "aGk="}}}', 400,
        'JSON Value: {\n    "b64": "aGk=",\n    "b64": "aGk="\n} not formatted correctly for base64 data'),
    Ask("base64 for URLs", "kinds:predict", body(signature_name="same_string", inputs=[{"b64": "_-8="}]), 400,
        "Unable to base64 decode"),
    Ask("base64 with another key", "kinds:predict",
        body(signature_name="same_string", instances=[{"x": {"b64": "aGk=", "z": 1}}]), 400,
        element(0, 'JSON Value: {\n    "b64": "aGk=",\n    "z": 1\n} not formatted correctly for base64 data', "x")),
    Ask("a number for base64", "kinds:predict", body(signature_name="same_string", inputs={"x": {"b64": 1}}), 400,
        'JSON Value: {\n    "b64": 1\n} not formatted correctly for base64 data'),
    Ask("a bare instance with another key is not base64", "kinds:predict",
        body(signature_name="same_string", instances=[{"b64": "aGk=", "z": 1}]), 400,
        element(0, "JSON object: does not have named input: b64", "b64")),
    Ask("a document that is quoted with repeated keys", "half:predict",
        '{"signature_name": 1, "a": {"b": 1, "b": [2]}, "signature_name": "x"}', 400,
        DOCUMENT + '    "signature_name": 1,\n    "a": {\n        "b": 1,\n        "b": [2]\n    },\n'
        '    "signature_name": "x"\n} not formatted correctly. \'signature_name\' key must be a string value.'),
    Ask("a large document that is quoted", "half:predict", body(instances=7, more=[1] * 10**6), 400,
        ('JSON Value: {\n    "instances": 7,\n    "more": [' + "1, " * 100)[: len("JSON Value: ") + 256]
        + " Expecting 'instances' to be an list/array"),
    Ask("a long key that is quoted", "half:predict", body(**{"k" * 10**6: 1, "instances": 7}), 400,
        'JSON Value: {\n    "' + "k" * 249 + " Expecting 'instances' to be an list/array"),
    Ask("a large list that is quoted", "half:predict", "[" + "1," * 10**6 + "1]", 400,
        ("JSON Value: [" + "1, " * 100)[: len("JSON Value: ") + 256] + " Is not object"),
    Ask("a row that is quoted", "kinds:predict", body(instances=[{"a": [1] * 10**6}]), 400,
        "Failed to process element: 0 of 'instances' list. JSON object: "
        + ('{\n    "a": [' + "1, " * 100)[:256] + " keys must be equal to: a,b"),
    Ask("256 bytes that are quoted", "half:predict", body(instances="x" * 232), 400,
        'JSON Value: {\n    "instances": "' + "x" * 232 + "\"\n} Expecting 'instances' to be an list/array"),
    Ask("a long string that is quoted", "half:predict", body(inputs="x" * 1000), 400,
        f'JSON Value: "{"x" * 1000}" Type: String is not of expected type: float'),
    Ask("what an op refuses", "kinds:predict", body(signature_name="product", instances=[[1, 2, 3]]), 400,
        "Matrix size-incompatible: In[0]: [1,3], In[1]: [2,1]\n\t [[{{node product}}]]"),
    Ask("a scalar output has no rows", "kinds:predict", body(signature_name="total", instances=[1, 2]), 400,
        "Tensor name: y has no shape information "),
    Ask("no rows beside others", "odd:predict", body(signature_name="some", instances=[-1.0]), 400,
        ("Tensor name: positive has inconsistent batch size: 0 expecting: 1",
            "Tensor name: all has inconsistent batch size: 1 expecting: 0")),
    Ask("outputs of unequal rows", "kinds:predict", body(signature_name="uneven", instances=[1, 2]), 400,
        ("Tensor name: once has inconsistent batch size: 2 expecting: 4",
            "Tensor name: twice has inconsistent batch size: 4 expecting: 2")),
    Ask("an output that JSON has no word for", "kinds:predict", body(signature_name="to_half", instances=[1]), 400,
        "Failed to write JSON value for tensor type: half"),
    Ask("an error is not cut", "n" * 1500 + ":predict", "{}", 404,
        f"Servable not found for request: Latest({'n' * 1500})"),
)  # fmt: skip
def test_rest_predict_explains_errors(main, row):
    check_ask(main, row)


# REST: classify and regress


def results(*given):
    """Return the answer to `examples`."""
    return {"results": list(given)}


NOT_FOUND_EXAMPLES = "JSON Value: {} When method is classify, key 'examples' is expected and was not found"


@rows(
    Ask("label and score", "judge:classify", '{"examples": [{"x": 1.0}, {"x": [2.5]}]}', 200,
        results([["no", 1.0], ["yes", 2.0]], [["no", 2.5], ["yes", 5.0]])),
    Ask("no label", "judge:classify", body(signature_name="only_scores", examples=[{"x": 1.0}]), 200,
        results([["", 1.0], ["", 2.0]])),
    Ask("no score", "judge:classify", body(signature_name="only_classes", examples=[{"x": 1.0}]), 200,
        results([["no", 0.0], ["yes", 0.0]])),
    Ask("ints and bools are int64", "judge:classify",
        body(signature_name="wholes", examples=[{"n": [7, True]}, {"n": [False, -2]}]), 200,
        results([["", 7.0], ["", 1.0]], [["", 0.0], ["", -2.0]])),
    Ask("a context", "judge:classify",
        body(signature_name="context", context={"c": "hello"}, examples=[{"x": 1.0}, {"x": 1.0, "c": {"b64": "aGk="}}]),
        200, results([["hello", 0.0]], [["hi", 0.0]])),
    Ask("values", "judge:regress", body(signature_name="regress", examples=[{"x": 1.0}, {"x": 2.5}]), 200,
        results(2.0, 3.5)),
    Ask("the version asked for", "half/versions/1:regress", body(signature_name="regress", examples=[{"x": 1.0}]), 200,
        results(2.5)),
    Ask("no examples", "judge:classify", "{}", 400, NOT_FOUND_EXAMPLES),
    Ask("no examples to regress", "judge:regress", "{}", 400, NOT_FOUND_EXAMPLES),
    Ask("an empty body", "judge:classify", "", 400, "JSON Parse error: The document is empty"),
    Ask("a body that is not an object", "judge:regress", "3", 400, "JSON Value: 3 Is not object"),
    Ask("an invalid signature name", "judge:regress", '{"signature_name": null}', 400,
        DOCUMENT + '    "signature_name": null\n} not formatted correctly. '
        "'signature_name' key must be a string value."),
    Ask("an example that is not an object", "judge:classify", '{"examples": ["x"]}', 400,
        "Example must be JSON object but got JSON String"),
    Ask("a context that is not an object", "judge:classify", '{"context": [], "examples": [{"x": 1.0}]}', 400,
        "Example must be JSON object but got JSON Array"),
    Ask("mixed with ints", "judge:classify", '{"examples": [{"x": [1, 2.0]}]}', 400,
        "Unexpected element type in feature: x expecting type: int64"),
    Ask("mixed with decimals", "judge:regress", '{"examples": [{"x": [1.0, "a"]}]}', 400,
        "Unexpected element type in feature: x expecting type: float"),
    Ask("mixed with strings", "judge:classify", '{"examples": [{"x": ["a", true]}]}', 400,
        "Unexpected element type in feature: x expecting type: bytes"),
    Ask("null", "judge:classify", '{"examples": [{"x": null}]}', 400,
        "Feature: x has element with unexpected JSON type: Null"),
    Ask("a list in a list", "judge:classify", '{"examples": [{"x": [[1.0]]}]}', 400,
        "Feature: x has element with unexpected JSON type: Array"),
    Ask("an object", "judge:regress", '{"examples": [{"x": {"a": 1.0}}]}', 400,
        "Feature: x has element with unexpected JSON type: Object"),
    Ask("an int for a float feature", "judge:classify", '{"examples": [{"x": 2}]}', 400,
        "Name: <unknown>, Key: x, Index: 0.  Data types don't match. Data type: int64 but expected type: float"
        + PARSE_NODE),
    Ask("an unknown model", "nope:classify", '{"examples": [{"x": 1.0}]}', 404,
        "Servable not found for request: Latest(nope)"),
    Ask("an unknown signature", "judge:regress", '{"signature_name": "nope", "examples": [{"x": 1.0}]}', 400,
        "No signature was found with the name: nope"),
    Ask("a signature of another form", "judge:regress",
        '{"signature_name": "regress_wrong_output", "examples": [{"x": 1.0}]}', 400,
        Starts("No regression outputs found in SignatureDef: ")),
)  # fmt: skip
def test_rest_classify_and_regress_answer_with_results(main, row):
    check_ask(main, row)


# REST: status, metadata and routes


def shown(*versions):
    """Return the JSON of versions and states."""
    healthy = {"error_code": "OK", "error_message": ""}
    return {"model_version_status": [{"version": v, "state": s, "status": healthy} for v, s in versions]}


BOTH = shown(("2", "AVAILABLE"), ("1", "AVAILABLE"))


def get(name, path, code, answer):
    """Return the row of a GET."""
    return Ask(name, path, None, code, answer, "GET")


@rows(
    get("all versions", "half", 200, BOTH),
    get("one version", "half/versions/1", 200, shown(("1", "AVAILABLE"))),
    get("a label is ignored", "half/labels/gold", 200, BOTH),
    get("capitals around the name", "/V1/Models/half/VERSIONS/1", 200, shown(("1", "AVAILABLE"))),
    get("an escape in the name", "h%61lf", 200, BOTH),
    get("an escaped slash belongs to the name", "a%2Fb", 404, "Could not find any versions of model a/b"),
    get("capitals in the name", "Half", 404, "Could not find any versions of model Half"),
    get("a query belongs to the name", "half?x=1", 404, "Could not find any versions of model half?x=1"),
    get("an unknown model", "nope", 404, "Could not find any versions of model nope"),
    get("an unknown version", "half/versions/5", 404, "Could not find version 5 of model half"),
    get("metadata of an unknown model", "nope/metadata", 404, "Servable not found for request: Latest(nope)"),
    get("metadata of an unknown version", "half/versions/5/metadata", 404,
        "Servable not found for request: Specific(half, 5)"),
    get("metadata of an unknown label", "half/labels/gold/metadata", 400, "Unrecognized servable version label: gold"),
    get("no name", "/v1/models", 400, "Missing model name in request."),
    *(
        Ask(f"{method} {path}", path, content, 400, f"Malformed request: {method} {path}", method)
        for method, path, content in (
            ("GET", "/v1/models/", None),
            ("GET", "/v1/", None),
            ("GET", "/v1/model/half", None),
            ("GET", "/v1/models/half/", None),
            ("GET", "/v1/models/half/metadata/x", None),
            ("GET", "/v1/models/half/versions/x", None),
            ("GET", "/v1/models/half/versions/-1", None),
            ("GET", "/v1/models/half:predict", None),
            ("POST", "/v1/models/half", "{}"),
            ("POST", "/v1/models/half/metadata", "{}"),
            ("POST", "/v1/models/half:explain", "{}"),
            ("POST", "/v1/models/half:Predict", '{"instances": [1]}'),
            ("POST", "/v1/models/half:predict/", '{"instances": [1]}'),
            ("POST", "/v1/models/half:predict?x=1", '{"instances": [1]}'),
            ("POST", "/v1/models/half/versions/-1:predict", '{"instances": [1]}'),
            ("POST", "/v1/models/half/versions/1/labels/a:predict", '{"instances": [1]}'),
            ("PUT", "/v1/models/half", "{}"),
            ("PUT", "/v1/models/half:predict", '{"instances": [1]}'),
            ("DELETE", "/v1/models/half", None),
        )
    ),
)  # fmt: skip
def test_a_path_is_a_model_or_a_malformed_request(main, row):
    check_ask(main, row)


@pytest.mark.parametrize(
    ("path", "directory", "version"), [("half", "half/2", "2"), ("half/versions/1", "half/1", "1")]
)
def test_rest_metadata_is_the_protobuf_as_json(main, models, path, directory, version):
    signatures = json_format.MessageToDict(
        signatures_on_disk(models / directory),
        preserving_proto_field_name=True,
        always_print_fields_with_no_presence=True,
    )
    model_spec = {"name": "half", "signature_name": "", "version": version}
    answer = {"model_spec": model_spec, "metadata": {"signature_def": signatures}}
    check_ask(main, get("", f"{path}/metadata", 200, answer))
    assert signatures["signature_def"]["serving_default"]["inputs"]["x"] == {
        "name": "x:0",
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}], "unknown_rank": False},
    }


@pytest.mark.parametrize(
    ("method", "path", "code", "headers"),
    [
        ("GET", "/v1/models/half/versions/99999999999999999999", 400, {}),
        ("POST", "/v1/models/half/versions/99999999999999999999:predict", 400, {}),
        ("HEAD", "/v1/models/half", 400, {}),
        ("OPTIONS", "/v1/models/half:predict", 200, {"Origin": "http://a.example"}),
        ("OPTIONS", "/v1/models/half:predict", 200, {"Origin": "https://a.example:8443"}),
        ("OPTIONS", "/v1/models/half:predict", 400, {"Origin": "ftp://a.example"}),
        ("OPTIONS", "/v1/models/half:predict", 400, {}),
    ],
)
def test_some_answers_have_no_body(main, method, path, code, headers):
    reply = main.ask(method, path, b"{}" if method == "POST" else None, headers)
    assert (reply.status, reply.body) == (code, b"")


@pytest.mark.parametrize("path", ["/", "/v2/models/half", "//v1/models/half", "/monitoring/prometheus/metrics"])
def test_a_path_that_is_not_under_v1_is_not_found(main, path):
    assert main.ask("GET", path).status == 404


def test_answers_are_not_compressed_and_name_no_origin_by_default(main):
    headers = {"Accept-Encoding": "gzip", "Origin": "http://a.example"}
    reply = main.ask("POST", "/v1/models/half:predict", b'{"instances": [1]}', headers)
    assert json.loads(reply.body) == predictions(3.5)
    assert [name for name in reply.headers if name.lower().startswith("access-control-")] == []


# Flags


@pytest.fixture(scope="module")
def flagged(start, models):
    """A server with flags that change its answers, and with labels."""
    return start(
        [
            model(models, "half", versions="all", labels={"steady": 1, "fresh": 2}),
            model(models, "kinds"),
            model(models, "judge"),
            model(models, "modern"),
        ],
        "--rest_api_enable_cors_support",
        "--rest_api_timeout_in_ms=1000",
        "--enable_signature_method_name_check=true",
        "--enable_serialization_as_tensor_content=true",
        "--enable_grpc_healthcheck_service=true",
        "--allow_version_labels_for_unavailable_models=true",
    )


METHOD_NAME = "Expected {} signature method_name to be tensorflow/serving/{}. Was: tensorflow/serving/{}"


@rows(
    Call("classify", classify(judge("only_classes")),
        classified(judge("only_classes", 1), [("no", 0.0), ("yes", 0.0)])),
    Call("regress", regress(judge("regress")), regressed(judge("regress", 1), 2.0)),
    refused("classify a predict signature", classify(judge("method_predict")),
        METHOD_NAME.format("classification", "classify", "predict")),
    refused("classify a regress signature", classify(judge("regress")),
        METHOD_NAME.format("classification", "classify", "regress")),
    refused("regress a classify signature", regress(judge("only_scores")),
        METHOD_NAME.format("regression", "regress", "classify")),
    refused("regress a TensorFlow 2 export", regress(spec("modern", "regress")),
        METHOD_NAME.format("regression", "regress", "predict")),
    refused("predict an odd signature", predict(spec("kinds", "odd_method"), x=floats(1.0)),
        "Expected prediction signature method_name to be one of {tensorflow/serving/predict, "
        "tensorflow/serving/classify, tensorflow/serving/regress}. Was: odd", grpc.StatusCode.INTERNAL),
    Call("predict a classify signature", predict(spec("judge", "float_input"), inputs=X),
        predicted(spec("judge", "float_input", 1), scores=tensor("FLOAT", [1, 1], tensor_content=b"\x00\x00\x80\x3f"))),
)  # fmt: skip
def test_a_flag_enables_the_check_of_method_names(flagged, row):
    check_call(flagged, row)


@rows(
    same("floats", "float32", floats(1.0, -2.0),
        tensor("FLOAT", [2], tensor_content=b"\x00\x00\x80\x3f\x00\x00\x00\xc0")),
    same("ints", "int64", tensor("INT64", [1], int64_val=[3]), tensor("INT64", [1], tensor_content=b"\x03" + bytes(7))),
    same("bools", "bool", tensor("BOOL", [2], bool_val=[True, False]), tensor("BOOL", [2], tensor_content=b"\x01\x00")),
    same("strings", "string", tensor("STRING", [2], string_val=[b"a", b"bcd"]),
        tensor("STRING", [2], tensor_content=b"\x01\x03abcd")),
)  # fmt: skip
def test_a_flag_makes_outputs_tensor_content(flagged, row):
    check_call(flagged, row)


@pytest.mark.parametrize(
    ("method", "path", "content", "code"),
    [
        ("OPTIONS", "half:predict", None, 200),
        ("GET", "half", None, 200),
        ("POST", "half:predict", b"{", 400),
        ("POST", "nope:predict", b"{}", 404),
    ],
)
def test_a_flag_lets_other_origins_read_answers(flagged, method, path, content, code):
    reply = flagged.ask(method, f"/v1/models/{path}", content, {"Origin": "http://a.example"})
    assert reply.status == code
    named = {name.lower(): value for name, value in reply.headers.items() if name.lower().startswith("access-control-")}
    assert named == {
        "access-control-allow-origin": "*",
        "access-control-allow-methods": "POST, GET",
        "access-control-allow-headers": "Content-Type",
    }


@pytest.mark.parametrize("server", ["flagged", "batching"])
def test_a_flag_limits_the_time_of_a_rest_call(request, server):
    text = body(signature_name="slow", instances=[100_000_000, 1, 1, 1])
    check_ask(
        request.getfixturevalue(server), Ask("", "kinds:predict", text, 504, "Timed out waiting for notification")
    )


@pytest.mark.parametrize(
    ("service", "code"),
    [
        (b"ModelService", grpc.StatusCode.OK),
        (b"PredictionService", grpc.StatusCode.OK),
        (b"tensorflow.serving.PredictionService", NOT_FOUND),
    ],
)
def test_a_flag_enables_the_health_service_for_two_names(flagged, service, code):
    check = flagged.channel.unary_unary("/grpc.health.v1.Health/Check")
    request, serving = b"\x0a" + bytes([len(service)]) + service, b"\x08\x01"
    got, answer = outcome(check.future(request, timeout=CALL_LIMIT_S))
    assert got == code
    assert code != grpc.StatusCode.OK or answer == serving


@pytest.mark.parametrize("server", ["flagged", "batching"])
def test_health_watchers_do_not_block_calls(request, server):
    server = request.getfixturevalue(server)
    watch = server.channel.unary_stream("/grpc.health.v1.Health/Watch")
    watchers = [watch(b"", timeout=CALL_LIMIT_S) for _ in range(64)]
    assert [next(watcher) for watcher in watchers] == [b"\x08\x01"] * len(watchers)
    code, answer = server.call(classify(judge("only_classes"), listed(*[example(x=[1.0])] * 4)))
    assert code == grpc.StatusCode.OK, answer
    for watcher in watchers:
        watcher.cancel()


def label_config(models, **labels):
    """Return a reload to the models of `flagged` with other labels."""
    others = [model(models, name) for name in ("kinds", "judge", "modern")]
    return reload(model(models, "half", versions="all", labels=labels), *others)


def version_of(server, label):
    """Return the version that answers for a label, or the details of the error."""
    _, answer = server.call(predict(spec("half", label=label), x=X))
    return answer if isinstance(answer, str) else answer.model_spec.version.value


def test_a_flag_lets_a_new_label_name_an_unavailable_version(flagged, models):
    assert [version_of(flagged, label) for label in ("steady", "fresh")] == [1, 2]
    check_call(flagged, Call("", label_config(models, steady=1, later=9), RELOADED))
    assert version_of(flagged, "later") == "Servable not found for request: Specific(half, 9)"
    assert version_of(flagged, "fresh") == "Unrecognized servable version label: fresh"
    refusal = "Request to assign label to version 9 of model half, which is not currently available for inference"
    check_call(flagged, refused("", label_config(models, steady=9), refusal, FAILED))
    assert version_of(flagged, "steady") == 1
    check_call(flagged, Call("", label_config(models, steady=2), RELOADED))
    assert version_of(flagged, "steady") == 2


# Reload, and the life of a version


@pytest.fixture(scope="module")
def managed(start, models):
    """A server with metrics, whose models the tests change."""
    return start(
        [model(models, "half", versions="all")],
        "--max_num_load_retries=0",
        monitoring_config_file='prometheus_config { enable: true path: "/stats" }',
    )


@pytest.fixture
def manager(managed, models):
    """The same server, reset to the model `half` alone."""
    check_call(managed, Call("", reload(model(models, "half", versions="all")), RELOADED))
    eventually(lambda: available(managed, "half"), [2, 1])
    return managed


def reload(*configs, metrics=()):
    """Return a ReloadConfigRequest."""
    return model_management_pb2.ReloadConfigRequest(config=model_list(*configs), metric_names=metrics)


def reloaded(*metrics):
    """Return a ReloadConfigResponse."""
    response = model_management_pb2.ReloadConfigResponse(metric=metrics)
    response.status.SetInParent()
    return response


RELOADED = reloaded()


def life(server, name):
    """Return {version: state} of a model in the server's order, or the details of an error."""
    code, answer = server.call(status(spec(name)))
    if code != grpc.StatusCode.OK:
        return answer
    return {one.version: one.State.Name(one.state) for one in answer.model_version_status}


def available(server, name):
    """Return the available versions of a model in the server's order, or the details of an error."""
    found = life(server, name)
    return found if isinstance(found, str) else [number for number, state in found.items() if state == "AVAILABLE"]


NOT_A_LIST = (
    "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"
)


REFUSED_RELOADS = {
    "no list": (lambda models: model_management_pb2.ReloadConfigRequest(), NOT_A_LIST, INVALID),
    "a name twice": (
        lambda models: reload(*[model(models, "twice", "half")] * 2),
        "Illegal to list model twice multiple times in config list",
        INVALID,
    ),
    "a relative path": (
        lambda models: reload(model(models, "half"), model(models, "other", base_path="half")),
        "Expected model other to have an absolute path or URI; got base_path()=half",
        INVALID,
    ),
    "another platform": (
        lambda models: reload(model_server_config_pb2.ModelConfig(name="half", base_path="/half", model_platform="x")),
        "Illegal to change a model's platform. For model half platform was tensorflow and new platform requested is x",
        INVALID,
    ),
    "a platform and a type": (
        lambda models: reload(model(models, "half", model_type=model_server_config_pb2.ModelType.TENSORFLOW)),
        "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform, "
        "model name is half",
        INVALID,
    ),
    "neither platform nor type": (
        lambda models: reload(model_server_config_pb2.ModelConfig(name="half", base_path="/half")),
        "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform, "
        "model name is half",
        INVALID,
    ),
    "another type": (
        lambda models: reload(model_server_config_pb2.ModelConfig(name="half", base_path="/half", model_type="OTHER")),
        "ModelServerConfig::model_type choice 2 not supported.",
        INVALID,
    ),
    "a label for a version that is not there": (
        lambda models: reload(model(models, "half", versions="all", labels={"gold": 5})),
        "Request to assign label to version 5 of model half, which is not currently available for inference",
        FAILED,
    ),
    "a label for a new model": (
        lambda models: reload(model(models, "half", versions="all"), model(models, "judge", labels={"gold": 1})),
        "Request to assign label to version 1 of model judge, which is not currently available for inference",
        FAILED,
    ),
}


@pytest.mark.parametrize("name", REFUSED_RELOADS)
def test_a_reload_that_is_refused_changes_nothing(manager, models, name):
    request, details, code = REFUSED_RELOADS[name]
    check_call(manager, refused(name, request(models), details, code))
    assert life(manager, "half") == {2: "AVAILABLE", 1: "AVAILABLE"}
    assert life(manager, "judge") == "Could not find any versions of model judge"


def test_a_type_is_enough(manager, models):
    typed = model_server_config_pb2.ModelConfig(name="typed", base_path=str(models / "half"), model_type="TENSORFLOW")
    check_call(manager, Call("", reload(model(models, "half", versions="all"), typed), RELOADED))
    assert available(manager, "typed") == [2]


def test_a_log_of_requests_is_refused(manager, models):
    logged = model(models, "logged", "half")
    logged.logging_config.SetInParent()
    half = model(models, "half", versions="all")
    check_call(manager, refused("", reload(half, logged), "No request-logger-creator provided."))
    assert life(manager, "half") == {2: "AVAILABLE", 1: "AVAILABLE"}
    assert available(manager, "logged") == [2]


@pytest.mark.parametrize(("name", "prefix"), [("half", "file://"), ("as_text", "")])
def test_a_model_may_be_at_a_file_uri_or_text(manager, models, name, prefix):
    found = model(models, "found", base_path=f"{prefix}{models / name}")
    check_call(manager, Call("", reload(model(models, "half", versions="all"), found), RELOADED))
    code, answer = manager.call(predict("found", x=X))
    assert (code, tf.make_ndarray(answer.outputs["y"]).tolist()) == (OK, [[3.5 if name == "half" else 2.5]])


def test_after_a_reload_that_timed_out_the_next_one_waits(manager, models):
    half = model(models, "half", versions="all")
    code, _ = manager.call(reload(half, model(models, "slow", base_path=str(models / "nowhere"))), timeout_s=1)
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    check_call(manager, Call("", reload(half, model(models, "slow", "half")), RELOADED))
    assert available(manager, "slow") == [2]


def test_labels_are_valid_until_the_next_reload(manager, models):
    labelled = model(models, "half", versions="all", labels={"steady": 1, "fresh": 2})
    check_call(manager, Call("", reload(labelled), RELOADED))
    answer = predicted(spec("half", "serving_default", 1), y=floats(2.5, shape=[1, 1]))
    check_call(manager, Call("", predict(spec("half", label="steady"), x=X), answer))
    check_call(
        manager, Call("", regress(spec("half", "regress", label="fresh")), regressed(spec("half", "regress", 2), 3.5))
    )
    check_ask(manager, Ask("", "half/labels/steady:predict", '{"instances": [1]}', 200, predictions(2.5)))
    check_ask(manager, Ask("", "half/labels/fresh:predict", '{"instances": [1]}', 200, predictions(3.5)))
    check_ask(manager, get("", "half/labels/steady", 200, BOTH))
    reply = manager.ask("GET", "/v1/models/half/labels/steady/metadata")
    assert json.loads(reply.body)["model_spec"] == {"name": "half", "signature_name": "", "version": "1"}
    moved = model(models, "half", versions="all", labels={"steady": 2})
    check_call(manager, Call("", reload(moved), RELOADED))
    assert version_of(manager, "steady") == 2
    assert version_of(manager, "fresh") == "Unrecognized servable version label: fresh"


def test_a_reload_replaces_the_whole_list(manager, models):
    check_call(manager, Call("", reload(model(models, "modern"), model(models, "same", "half")), RELOADED))
    for name, version in (("modern", 1), ("same", 2)):
        assert available(manager, name) == [version]
        code, answer = manager.call(predict(name, x=X))
        assert (code, answer.model_spec.version.value) == (grpc.StatusCode.OK, version)
    eventually(lambda: life(manager, "half"), {2: "END", 1: "END"})
    check_call(manager, refused("", predict("half", x=X), "Servable not found for request: Latest(half)", NOT_FOUND))
    check_call(manager, Call("", status(spec("half")), states(v2="END", v1="END")))
    check_ask(manager, get("", "half", 200, shown(("2", "END"), ("1", "END"))))


def test_an_empty_list_unloads_every_model(manager):
    check_call(manager, Call("", reload(), RELOADED))
    eventually(lambda: life(manager, "half"), {2: "END", 1: "END"})
    check_call(
        manager,
        refused(
            "", predict(spec("half", version=2), x=X), "Servable not found for request: Specific(half, 2)", NOT_FOUND
        ),
    )


def test_a_reload_answers_an_entry_for_each_metric_asked(manager, models):
    names = [":tensorflow:serving:request_count"]
    metric = model_management_pb2.Metric(name=names[0], int64_value_increase=0)
    check_call(manager, Call("", reload(model(models, "half", versions="all"), metrics=names), reloaded(metric)))


def test_a_model_that_cannot_be_loaded_fails_the_reload_and_no_other(manager, models):
    half = model(models, "half", versions="all")
    why = (
        "Specified file path does not appear to contain a SavedModel bundle (should have a file called "
        f"`saved_model.pb`)\nSpecified file path: {models / 'broken' / '1'}"
    )
    details = (
        f"1 model(s) did not become available: {{{{{{name: broken version: 1}} due to error: NOT_FOUND: {why}}}, }}"
    )
    check_call(manager, refused("", reload(half, model(models, "broken")), details, grpc.StatusCode.UNKNOWN))
    broken = get_model_status_pb2.GetModelStatusResponse()
    one = broken.model_version_status.add(version=1, state="END")
    one.status.error_code, one.status.error_message = 5, why
    check_call(manager, Call("", status(spec("broken")), broken))
    check_call(
        manager, refused("", predict("broken", x=X), "Servable not found for request: Latest(broken)", NOT_FOUND)
    )
    assert life(manager, "half") == {2: "AVAILABLE", 1: "AVAILABLE"}
    check_call(manager, Call("", reload(half, model(models, "modern")), RELOADED))
    assert available(manager, "modern") == [1]


def test_a_version_that_is_a_file_cannot_be_loaded(manager, models):
    code, details = manager.call(reload(model(models, "half", versions="all"), model(models, "file")))
    assert code == grpc.StatusCode.UNKNOWN
    assert details.startswith("1 model(s) did not become available: {{{name: file version: 7} due to error: ")
    _, answer = manager.call(status(spec("file")))
    (one,) = answer.model_version_status
    assert (one.version, one.State.Name(one.state), one.status.error_code) == (7, "END", 9)
    assert one.status.error_message.startswith("Error while attempting to reserve resources to load servable ")
    assert one.status.error_message.endswith("; Not a directory")


@pytest.mark.parametrize(
    ("versions", "kept"), [(None, [2]), (1, [2]), (2, [2, 1]), ([1], [1]), ([1, 9], [1]), ("all", [2, 1])], ids=str
)
def test_a_version_policy_selects_the_versions(manager, models, versions, kept):
    check_call(manager, Call("", reload(model(models, "half", versions=versions)), RELOADED))
    eventually(lambda: available(manager, "half"), kept)
    eventually(lambda: life(manager, "half"), {v: "AVAILABLE" if v in kept else "END" for v in (2, 1)})
    dropped = {1, 2} - set(kept)
    for version in dropped:
        refusal = f"Servable not found for request: Specific(half, {version})"
        check_call(manager, refused("", predict(spec("half", version=version), x=X), refusal, NOT_FOUND))


def test_versions_follow_their_directories(manager, models, tmp_path):
    def version():
        code, answer = manager.call(predict("changing", x=X))
        return answer.model_spec.version.value if code == grpc.StatusCode.OK else code

    base = tmp_path / "changing"
    shutil.copytree(models / "half" / "1", base / "1")
    check_call(manager, Call("", reload(model(models, "changing", base_path=str(base))), RELOADED))
    assert version() == 1
    shutil.copytree(models / "half" / "2", base / "tmp-2")
    (base / "tmp-2").rename(base / "2")
    seen = set()
    eventually(lambda: seen.add(version()) or life(manager, "changing"), {2: "AVAILABLE", 1: "END"})
    assert seen <= {1, 2}
    assert version() == 2
    shutil.rmtree(base / "2")
    eventually(lambda: seen.add(version()) or life(manager, "changing"), {2: "END", 1: "AVAILABLE"})
    assert seen <= {1, 2}
    shutil.rmtree(base / "1")
    eventually(lambda: life(manager, "changing"), {2: "END", 1: "END"})
    assert version() == NOT_FOUND


# Monitoring

PREFIX = ":tensorflow:serving:"


def metrics(server):
    """Return {(name, labels): value} of the page, the labels as a frozenset of pairs."""
    reply = server.ask("GET", "/stats")
    assert reply.status == 200
    assert reply.headers["Content-Type"].startswith("text/plain")
    found = {}
    for line in reply.body.decode().splitlines():
        if sample := re.fullmatch(r"([\w:]+)\{(.*)\} (\S+)", line):
            name, labels, value = sample.groups()
            found[name, frozenset(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels))] = float(value)
    return found


def count(metric, **labels):
    """Return the key of a sample."""
    return PREFIX + metric, frozenset(labels.items())


RAN = {
    "gRPC Predict": (
        lambda server: server.call(predict("half", x=X)),
        count("request_count", model_name="half", status="OK"),
        count("request_latency_count", model_name="half", API="Predict", entrypoint="GRPC"),
        count("runtime_latency_count", model_name="half", API="Predict", runtime="TF1"),
    ),
    "gRPC Classify": (
        lambda server: server.call(classify(spec("half", "classify"))),
        count("request_count", model_name="half", status="OK"),
    ),
    "gRPC Regress": (
        lambda server: server.call(regress(spec("half", "regress"))),
        count("request_count", model_name="half", status="OK"),
    ),
    "gRPC Predict that fails": (
        lambda server: server.call(predict('a "quoted" name', x=X)),
        count("request_count", model_name=r"a \"quoted\" name", status="NOT_FOUND"),
    ),
    "gRPC Predict that is wrong": (
        lambda server: server.call(predict("half")),
        count("request_count", model_name="half", status="INVALID_ARGUMENT"),
    ),
    "REST predict": (
        lambda server: server.ask("POST", "/v1/models/half:predict", b'{"instances": [1]}'),
        count("request_count", model_name="half", status="OK"),
        count("request_latency_count", model_name="half", API="predict", entrypoint="REST"),
    ),
    "REST predict that fails": (
        lambda server: server.ask("POST", "/v1/models/nope:predict", b"{}"),
        count("request_count", model_name="nope", status="NOT_FOUND"),
    ),
    "REST status": (
        lambda server: server.ask("GET", "/v1/models/half"),
        count("request_count", model_name="half", status="OK"),
    ),
}
# A runtime latency may count a REST call too.
COUNTED = {key for _, *keys in RAN.values() for key in keys if not key[0].endswith("runtime_latency_count")}


@pytest.mark.parametrize("name", RAN)
def test_a_request_is_counted_in_its_own_metrics_only(manager, name):
    run, *keys = RAN[name]
    before = metrics(manager)
    run(manager)
    after = metrics(manager)
    assert {key for key in COUNTED if after.get(key, 0) != before.get(key, 0)} == COUNTED.intersection(keys)
    assert {after.get(key, 0) - before.get(key, 0) for key in keys} == {1}


def test_the_page_declares_counters_and_histograms(manager):
    manager.call(predict("half", x=X))
    lines = manager.ask("GET", "/stats").body.decode().splitlines()
    for name, kind in (
        ("request_count", "counter"),
        ("request_latency", "histogram"),
        ("runtime_latency", "histogram"),
    ):
        assert f"# TYPE {PREFIX}{name} {kind}" in lines


def test_latency_buckets_grow_by_a_factor_of_1_8(manager):
    manager.call(predict("half", x=X))
    labels = {"model_name": "half", "API": "Predict", "entrypoint": "GRPC"}
    found = metrics(manager)
    for bound in ("10", "18", "32.4", "58.32", "+Inf"):
        assert count("request_latency_bucket", le=bound, **labels) in found
    total = found[count("request_latency_count", **labels)]
    assert found[count("request_latency_bucket", le="+Inf", **labels)] == total >= 1
    assert found[count("request_latency_sum", **labels)] > 0


def test_metrics_are_at_the_path_in_the_file_without_a_query(manager):
    assert manager.ask("POST", "/stats", b"").status == 200
    assert manager.ask("GET", "/monitoring/prometheus/metrics").status == 404
    reply = manager.ask("GET", "/stats?x=1")
    assert (reply.status, reply.body) == (400, b"Unexpected path: /stats?x=1. Should be /stats")


# Batching

BATCHING = """
max_batch_size { value: 4 } batch_timeout_micros { value: 300000 } max_enqueued_batches { value: 2 }
num_batch_threads { value: 1 }
"""


@pytest.fixture(scope="module")
def batching(start, models):
    """A server that batches the requests of every model."""
    configs = [model(models, name) for name in ("half", "kinds", "judge")]
    flags = ("--enable_batching", "--enable_grpc_healthcheck_service=true", "--rest_api_timeout_in_ms=1000")
    return start(configs, *flags, batching_parameters_file=BATCHING)


@pytest.fixture(scope="module")
def tuned(start, models):
    """A server that batches the requests of models with their own parameters."""
    return start(
        [model(models, name) for name in ("half", "padded", "patient", "split")],
        "--enable_batching",
        "--enable_per_model_batching_parameters",
        "--rest_api_timeout_in_ms=500",
        batching_parameters_file=BATCHING,
    )


FULL = "The batch scheduling queue to which this task was submitted is full; currently 2 batches enqueued and "
TOO_LARGE = "Task size 5 is larger than maximum input batch size 4"
OTHER_ROWS = (
    "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input tensors"
)


@rows(
    Call("a request alone", predict("half", x=floats(2.0, 4.0, shape=[2, 1])),
        predicted(spec("half", "serving_default", 2), y=floats(4.0, 5.0, shape=[2, 1]))),
    Call("a full batch", predict("kinds", a=floats(1.0, 2.0, 3.0, 4.0), b=floats(1.0, 1.0, 1.0, 1.0)),
        predicted(PAIR_SPEC, sum=floats(2.0, 3.0, 4.0, 5.0), diff=floats(0.0, 1.0, 2.0, 3.0))),
    Call("examples are rows", classify(judge("only_scores"), TWO_AND_FOUR),
        classified(judge("only_scores", 1), [("", 2.0), ("", 4.0)], [("", 4.0), ("", 8.0)])),
    refused("more rows than a batch", predict(spec("kinds", "rows"), x=floats(*[1.0] * 5)), TOO_LARGE),
    refused("more examples than a batch", classify(judge("only_scores"), listed(*[example(x=[1.0])] * 5)), TOO_LARGE),
    refused("a scalar", predict("half", x=floats(1.0, shape=[])),
        "Batching Run() input tensors must have at least one dimension"),
    refused("inputs of unequal rows", predict("kinds", a=floats(1.0, 2.0), b=floats(1.0)),
        "Batching Run() input tensors must have equal 0th-dimension size"),
    refused("an output without rows", predict(spec("kinds", "total"), x=floats(1.0, 2.0, 3.0, 4.0)),
        "Batched output tensor has 0 dimensions", FAILED),
    refused("an output of other rows", predict(spec("kinds", "twice"), x=floats(1.0, 2.0, 3.0, 4.0)), OTHER_ROWS,
        FAILED),
    refused("another dtype", predict("half", x=tensor("INT32", [4, 1], int_val=[1])),
        "Expects arg[0] to be float but int32 is provided"),
)  # fmt: skip
def test_a_batch_answers_each_request_with_its_rows(batching, row):
    check_call(batching, row)


@rows(
    Ask("a full batch", "half:predict", '{"instances": [1, 2, 3, 5]}', 200, predictions(3.5, 4.0, 4.5, 5.5)),
    Ask("more rows than a batch", "half:predict", '{"instances": [1, 2, 3, 4, 5]}', 400, TOO_LARGE),
)  # fmt: skip
def test_a_batch_answers_rest_too(batching, row):
    check_ask(batching, row)


@rows(
    Call("a batch is filled up with the first row of its last request",
        predict(spec("padded", "sum_rows"), x=floats(1.0, 20.0)),
        predicted(spec("padded", "sum_rows", 1), y=floats(22.0, 22.0))),
    Call("a batch of an allowed size is not filled up", predict(spec("padded", "rows"), x=floats(1.0, 2.0, 3.0)),
        predicted(spec("padded", "rows", 1), y=floats(3.0, 3.0, 3.0))),
    refused("more rows than a batch of its own", predict(spec("padded", "rows"), x=floats(*[1.0] * 5)), TOO_LARGE),
    Call("a large request runs in parts", predict(spec("split", "rows"), x=floats(*[1.0] * 100)),
        predicted(spec("split", "rows", 1), y=floats(*[32.0] * 96, *[4.0] * 4))),
    refused("more rows than may be split", predict(spec("split", "rows"), x=floats(*[1.0] * 101)),
        "Task size 101 is larger than maximum input batch size 100"),
    Call("parameters not given are the defaults", predict(spec("patient", "rows"), x=floats(*[1.0] * 5)),
        predicted(spec("patient", "rows", 1), y=floats(*[5.0] * 5))),
    Call("a model without parameters is not batched", predict("half", x=floats(1.0, shape=[])),
        predicted(spec("half", "serving_default", 2), y=floats(3.5, shape=[]))),
)  # fmt: skip
def test_a_flag_enables_batching_parameters_per_model(tuned, row):
    check_call(tuned, row)


def test_a_call_that_times_out_in_the_queue_is_refused(tuned):
    text = body(signature_name="rows", instances=[1])
    refusal = "Run() timeout exceeded while waiting in batching queue"
    check_ask(tuned, Ask("", "patient:predict", text, 429, refusal))


def results_of(server, signature, *sent):
    """Send several Predict requests at the same time; return (code, y or details) of each."""
    got = server.call_together(*(predict(spec(*signature), x=x) for x in sent))
    return [
        (code, answer if isinstance(answer, str) else tf.make_ndarray(answer.outputs["y"]).tolist())
        for code, answer in got
    ]


OK = grpc.StatusCode.OK


def test_requests_that_fill_a_batch_run_as_one_call(batching):
    got = results_of(batching, ("kinds", "sum_rows"), floats(1.0, 2.0), floats(10.0), floats(100.0))
    assert got == [(OK, [113.0, 113.0]), (OK, [113.0]), (OK, [113.0])]
    got = results_of(batching, ("kinds", "same_float32"), floats(1.0, 2.0), floats(3.0), floats(4.0))
    assert got == [(OK, [1.0, 2.0]), (OK, [3.0]), (OK, [4.0])]


def test_requests_for_different_outputs_are_batched_apart(batching):
    sent = [predict(spec("kinds", name), x=floats(1.0, 2.0)) for name in ("rows", "sum_rows")]
    got = [tf.make_ndarray(answer.outputs["y"]).tolist() for _, answer in batching.call_together(*sent)]
    assert got == [[2.0, 2.0], [3.0, 3.0]]


def test_a_request_of_another_inner_shape_fails_the_whole_batch(batching):
    code, details = (
        FAILED,
        "Tensors with name 'x:0' from different tasks have different shapes and padding is turned off.",
    )
    for got, answer in results_of(
        batching, ("half", ""), floats(1.0, 2.0, shape=[2, 1]), floats(1.0, 2.0, 3.0, 4.0, shape=[2, 2])
    ):
        assert (got, answer[: len(details)]) == (code, details)


def test_a_parameter_enables_padding_of_inner_shapes_with_the_first_element(tuned):
    narrow, wide = floats(5.0, 6.0, shape=[2, 1]), floats(1.0, 2.0, 3.0, 4.0, shape=[2, 2])
    got = results_of(tuned, ("padded", "same_float32"), narrow, wide)
    assert got == [(OK, [[5.0, 5.0], [6.0, 5.0]]), (OK, [[1.0, 2.0], [3.0, 4.0]])]


def test_batched_models_stay_available_over_a_reload(batching, models):
    check_call(batching, Call("", reload(*[model(models, name) for name in ("half", "kinds", "judge")]), RELOADED))
    check_call(batching, Call("", predict("half", x=floats(2.0, 4.0, shape=[2, 1])),
        predicted(spec("half", "serving_default", 2), y=floats(4.0, 5.0, shape=[2, 1]))))  # fmt: skip


def test_a_full_queue_refuses_requests(batching):
    slow = batching.start_call(predict(spec("kinds", "slow"), x=floats(1.0, 1.0, 1.0, 1_000_000.0)))
    time.sleep(0.5)
    got = results_of(batching, ("kinds", "slow"), *[floats(1.0, 1.0, 1.0, 1.0)] * 3)
    assert outcome(slow)[0] == OK
    refusals = [answer for code, answer in got if code == grpc.StatusCode.UNAVAILABLE]
    assert refusals == [FULL + "max_enqueued_batches is 2"]
    assert [code for code, _ in got].count(OK) == 2
