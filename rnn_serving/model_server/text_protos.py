"""Read the text files that flags name as protobuf messages.

`tensorflow-serving-api` has no Python code for the batching, monitoring, TLS and platform settings, so this module
declares their messages as session_bundle_config.proto, saved_model_bundle_source_adapter.proto, monitoring_config.proto
and ssl_config.proto define them, in a descriptor pool of its own. Field numbers do not matter in text files.
"""

import logging

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from rnn_serving.model_server.errors import ServingError, invalid_argument

from tensorflow.core.protobuf import config_pb2, named_tensor_pb2
from tensorflow_serving.config import model_server_config_pb2, platform_config_pb2

log = logging.getLogger(__name__)

Field = descriptor_pb2.FieldDescriptorProto
ModelServerConfig = model_server_config_pb2.ModelServerConfig
PlatformConfigMap = platform_config_pb2.PlatformConfigMap
SessionConfig = config_pb2.ConfigProto

_PACKAGE = "tensorflow.serving"
_BOOL, _INT32, _INT64, _UINT64 = Field.TYPE_BOOL, Field.TYPE_INT32, Field.TYPE_INT64, Field.TYPE_UINT64
_TEXT = Field.TYPE_STRING
_MAYBE_BOOL, _MAYBE_TEXT = ".google.protobuf.BoolValue", ".google.protobuf.StringValue"
_MAYBE_INT32, _MAYBE_INT64 = ".google.protobuf.Int32Value", ".google.protobuf.Int64Value"
_POOL = descriptor_pool.DescriptorPool()


def _message_types(*imports, **messages):
    """Return {name: message class} for {name: {field: type}}; a type is a scalar, a message's name, or [type]."""
    file = descriptor_pb2.FileDescriptorProto(name="rnn_serving/text_protos.proto", package=_PACKAGE, syntax="proto3")
    for imported in imports:
        _add_to_pool(imported)
        file.dependency.append(imported.name)
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            (kind, label) = (kind[0], Field.LABEL_REPEATED) if isinstance(kind, list) else (kind, Field.LABEL_OPTIONAL)
            added = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = Field.TYPE_MESSAGE, kind
            else:
                added.type = kind
    _POOL.Add(file)
    found = {name: _POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}") for name in messages}
    return {name: message_factory.GetMessageClass(descriptor) for name, descriptor in found.items()}


def _add_to_pool(file):
    """Add a file of the default pool, and the files that it imports."""
    for imported in file.dependencies:
        _add_to_pool(imported)
    _POOL.AddSerializedFile(file.serialized_pb)


_TYPES = _message_types(
    wrappers_pb2.DESCRIPTOR,
    config_pb2.DESCRIPTOR,
    named_tensor_pb2.DESCRIPTOR,
    BatchingParameters={
        "max_batch_size": _MAYBE_INT64,
        "batch_timeout_micros": _MAYBE_INT64,
        "max_enqueued_batches": _MAYBE_INT64,
        "num_batch_threads": _MAYBE_INT64,
        "thread_pool_name": _MAYBE_TEXT,
        "allowed_batch_sizes": [_INT64],
        "pad_variable_length_inputs": _BOOL,
        "enable_large_batch_splitting": _MAYBE_BOOL,
        "max_execution_batch_size": _MAYBE_INT64,
    },
    ModelWarmupOptions={"num_request_iterations": _MAYBE_INT32, "num_model_warmup_threads": _MAYBE_INT32},
    SessionBundleConfig={
        "session_target": _TEXT,
        "session_config": ".tensorflow.ConfigProto",
        "batching_parameters": f".{_PACKAGE}.BatchingParameters",
        "session_run_load_threadpool_index": _MAYBE_INT32,
        "experimental_transient_ram_bytes_during_load": _UINT64,
        "saved_model_tags": [_TEXT],
        "experimental_fixed_input_tensors": [".tensorflow.NamedTensorProto"],
        "enable_model_warmup": _BOOL,
        "model_warmup_options": f".{_PACKAGE}.ModelWarmupOptions",
        "enable_session_metadata": _BOOL,
        "remove_unused_fields_from_bundle_metagraph": _BOOL,
        "prefer_tflite_model": _BOOL,
        "num_tflite_interpreters_per_pool": _INT32,
        "num_tflite_pools": _INT32,
        "wrap_session_with_no_threading_params": _BOOL,
    },
    SavedModelBundleSourceAdapterConfig={"legacy_config": f".{_PACKAGE}.SessionBundleConfig"},
    PrometheusConfig={"enable": _BOOL, "path": _TEXT},
    MonitoringConfig={"prometheus_config": f".{_PACKAGE}.PrometheusConfig"},
    SSLConfig={"server_key": _TEXT, "server_cert": _TEXT, "custom_ca": _TEXT, "client_verify": _BOOL},
)
BatchingParameters, MonitoringConfig = _TYPES["BatchingParameters"], _TYPES["MonitoringConfig"]
SSLConfig = _TYPES["SSLConfig"]
SessionBundleConfig = _TYPES["SessionBundleConfig"]
SavedModelBundleSourceAdapterConfig = _TYPES["SavedModelBundleSourceAdapterConfig"]


def read(path, message_class):
    """Return the `message_class` message in the text file at `path`; log where and why it does not parse.

    Raises: ServingError NOT_FOUND for a missing file, INVALID_ARGUMENT for one that does not parse.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError as error:
        raise ServingError(grpc.StatusCode.NOT_FOUND, f"{path}; No such file or directory") from error
    except OSError as error:
        raise invalid_argument(f"{path}; {error.strerror}") from error
    try:
        return text_format.Parse(content.decode(), message_class(), descriptor_pool=_POOL)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        name = message_class.DESCRIPTOR.full_name
        log.error("Error parsing text-format %s: %s: %s", name, path, _reason(error, content))
        raise invalid_argument(f"Invalid protobuf file: '{path}'") from error


def _reason(error, content):
    """Return where in a text file an error is, line:column, and what it is."""
    if isinstance(error, UnicodeDecodeError):
        before = content[: error.start].split(b"\n")
        return f"{len(before)}:{len(before[-1]) + 1} : not UTF-8 text ({error.reason})"
    return str(error)
