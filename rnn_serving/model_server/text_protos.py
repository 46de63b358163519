"""The text files that flags name, as protobuf messages.

`tensorflow-serving-api` has no Python code for batching, monitoring and SSL settings, so their messages are described
here, field by field, as session_bundle_config.proto and monitoring_config.proto define them.
"""

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

from rnn_serving.model_server.errors import ServingError, invalid_argument

from tensorflow_serving.config import model_server_config_pb2

Field = descriptor_pb2.FieldDescriptorProto
ModelServerConfig = model_server_config_pb2.ModelServerConfig
_PACKAGE = "rnn_serving.text_protos"
_INT64, _STRING = ".google.protobuf.Int64Value", ".google.protobuf.StringValue"


def _message_types(**messages):
    """Return message classes for {name: {field: (number, type name or basic type, repeated)}}."""
    file = descriptor_pb2.FileDescriptorProto(name="rnn_serving/text_protos.proto", package=_PACKAGE, syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, (number, kind, repeated) in fields.items():
            label = Field.LABEL_REPEATED if repeated else Field.LABEL_OPTIONAL
            added = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = Field.TYPE_MESSAGE, kind
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in messages]


BatchingParameters, PrometheusConfig, MonitoringConfig = _message_types(
    BatchingParameters={
        "max_batch_size": (1, _INT64, False),
        "batch_timeout_micros": (2, _INT64, False),
        "max_enqueued_batches": (3, _INT64, False),
        "num_batch_threads": (4, _INT64, False),
        "thread_pool_name": (5, _STRING, False),
        "allowed_batch_sizes": (6, Field.TYPE_INT64, True),
        "pad_variable_length_inputs": (7, Field.TYPE_BOOL, False),
        "enable_large_batch_splitting": (8, ".google.protobuf.BoolValue", False),
        "max_execution_batch_size": (9, _INT64, False),
    },
    PrometheusConfig={"enable": (1, Field.TYPE_BOOL, False), "path": (2, Field.TYPE_STRING, False)},
    MonitoringConfig={"prometheus_config": (1, f".{_PACKAGE}.PrometheusConfig", False)},
)


def read(path, message_class):
    """Return the message of `message_class` that the text file at `path` holds.

    Raises: ServingError, NOT_FOUND or INVALID_ARGUMENT.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return text_format.Parse(file.read(), message_class())
    except FileNotFoundError as error:
        raise ServingError(grpc.StatusCode.NOT_FOUND, f"{path}; No such file or directory") from error
    except (text_format.ParseError, UnicodeDecodeError, OSError) as error:
        raise invalid_argument(f"Invalid protobuf file: '{path}'") from error
