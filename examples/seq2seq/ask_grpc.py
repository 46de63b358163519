"""Ask a model server for an answer over gRPC."""

import contextlib

import grpc

from examples.seq2seq.text import REPLY_KEY, TEXT_KEY
from rnn_serving.clients import waiting
from rnn_serving.clients.load import RequestError
from rnn_serving.command_line import error_reason
from rnn_serving.quiet_tensorflow import tf

from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc


@contextlib.contextmanager
def open_grpc(address, model_name, timeout_s, wait_s=0.0):
    """Yield `ask(question) -> answer`, bytes to str, which raises RequestError.

    Raises: RequestError if no server with the model answers, for one that is starting after `wait_s` seconds.
    """

    def call(method, request, wait_s=0.0):
        request.model_spec.name = model_name
        try:
            response, _ = waiting.call(method, request, timeout_s, address, wait_s)
            return response
        except grpc.RpcError as error:
            details = error_reason(error.details() or "no details")
            raise RequestError(f"{address}: {error.code().name}: {details}") from error

    def ask(text):
        request = predict_pb2.PredictRequest(output_filter=[REPLY_KEY])
        request.inputs[TEXT_KEY].CopyFrom(tf.make_tensor_proto([text]))
        response = call(stub.Predict, request)
        return response.outputs[REPLY_KEY].string_val[0].decode()

    options = [("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 500)]
    with grpc.insecure_channel(address, options) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        call(stub.GetModelMetadata, metadata, wait_s)
        yield ask
