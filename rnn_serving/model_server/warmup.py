"""Run the warm-up requests in a version's directory before it becomes available (saved_model_warmup.cc)."""

import os
import time

import grpc

from rnn_serving import exports
from rnn_serving.model_server import inference, monitoring, predict
from rnn_serving.model_server.errors import ServingError, invalid_argument
from rnn_serving.quiet_tensorflow import tf

from tensorflow_serving.apis import prediction_log_pb2

MAX_RECORDS = 1000


def warm_up(servable, iterations=0):
    """Run the requests in a servable's warm-up file in order, each `iterations` times (0 counts as 1).

    Raises: ServingError if the file is not a TFRecord of PredictionLogs, has too many, or if a request fails.
    """
    path = os.path.join(servable.directory, exports.WARMUP_FILE)
    if not os.path.exists(path):
        return
    started = time.perf_counter()
    for log in _records(path):
        for _ in range(max(iterations, 1)):
            _replay(servable, log)
    monitoring.WARMUP_LATENCY.observe((time.perf_counter() - started) * 1e6, servable.directory, "OK")


def _records(path):
    try:
        for count, record in enumerate(tf.data.TFRecordDataset(path).as_numpy_iterator(), start=1):
            if count > MAX_RECORDS:
                raise invalid_argument(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}")
            yield _parse(record, path)
    except tf.errors.DataLossError as error:
        raise ServingError(
            grpc.StatusCode.DATA_LOSS, f"{error.message}. Please verify your warmup data is in TFRecord format."
        ) from error


def _parse(record, path):
    try:
        return prediction_log_pb2.PredictionLog.FromString(record)
    except Exception as error:  # google.protobuf.message.DecodeError, or ValueError in other implementations
        raise invalid_argument(f"Failed to parse warmup record: {record[:100]!r} from {path}") from error


def _replay(servable, log):
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        servable.run(*predict.run_arguments(servable, log.predict_log.request))
    elif kind == "classify_log":
        inference.run_classify(servable, log.classify_log.request)
    elif kind == "regress_log":
        inference.run_regress(servable, log.regress_log.request)
    elif kind == "multi_inference_log":
        inference.run_multi_inference(servable, log.multi_inference_log.request)
    elif kind:
        number = log.DESCRIPTOR.fields_by_name[kind].number
        raise ServingError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")
