"""PredictionService and ModelService: each method takes a request and a context, and returns a response.

They raise ServingError, which `grpc_handlers` turns into a gRPC status.
"""

import asyncio
import threading

from rnn_serving.model_server import SERVED_BY, inference, monitoring
from rnn_serving.model_server.metadata import get_model_metadata
from rnn_serving.model_server.predict import predict, predict_async

from tensorflow_serving.apis import model_management_pb2


class PredictionService:
    """Calls that run a model or describe it."""

    def __init__(self, core):
        self._core = core

    def Predict(self, request, context):
        """Run a signature on tensors."""
        with monitoring.request("Predict", "GRPC", request.model_spec.name):
            return predict(self._core, request, context.time_remaining())

    def Classify(self, request, context):
        """Run a signature on Examples; answer labels with scores."""
        with monitoring.request("Classify", "GRPC", request.model_spec.name):
            return inference.classify(self._core, request, context.time_remaining())

    def Regress(self, request, context):
        """Run a signature on Examples; answer one value each."""
        with monitoring.request("Regress", "GRPC", request.model_spec.name):
            return inference.regress(self._core, request, context.time_remaining())

    def MultiInference(self, request, context):
        """Run several signatures on the same Examples."""
        return inference.multi_inference(self._core, request, context.time_remaining())

    def GetModelMetadata(self, request, context):
        """Return the signatures of a model, and in the trailing metadata what it was trained on."""
        response, headers = get_model_metadata(self._core, request)
        context.set_trailing_metadata((*SERVED_BY, *headers))
        return response


class BatchingPredictionService(PredictionService):
    """The same calls for an event loop, where Predict waits for its batch without occupying a thread."""

    async def Predict(self, request, context):
        """Run a signature on tensors, batched with other requests."""
        with monitoring.request("Predict", "GRPC", request.model_spec.name):
            return await predict_async(self._core, request, context.time_remaining())


class ModelService:
    """Calls that show or change what the server serves."""

    def __init__(self, core):
        self._core = core

    def GetModelStatus(self, request, context):
        """Return the versions of a model and their states."""
        return self._core.status(request.model_spec if request.HasField("model_spec") else None)

    def HandleReloadConfigRequest(self, request, context):
        """Switch to another configuration."""
        return self._reload(request, context.is_active)

    def _reload(self, request, is_active):
        self._core.reload(request.config, is_active)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.SetInParent()
        for name in request.metric_names:
            monitoring.add_metric(response, name)
        return response


class EventLoopModelService(ModelService):
    """The same calls for an event loop; GetModelStatus runs in a thread of the pool."""

    async def HandleReloadConfigRequest(self, request, context):
        """Switch to another configuration."""
        # In an event loop, the context does not show a thread that the caller has cancelled.
        cancelled = threading.Event()
        try:
            return await asyncio.to_thread(self._reload, request, lambda: not cancelled.is_set())
        finally:
            cancelled.set()
