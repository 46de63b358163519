"""One replica: it answers the gRPC calls and the HTTP requests that Ray's proxies forward, from one loaded model."""

import asyncio
import io
import time
from concurrent.futures import ThreadPoolExecutor

from starlette.responses import Response
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Response as WSGIResponse

import flask_server
from deploy.ray.replica_core import ReplicaCore
from deploy.ray.served_model import ServedCore
from rnn_serving.model_server.errors import ServingError, unimplemented
from rnn_serving.model_server.grpc_handlers import Handlers
from rnn_serving.model_server.grpc_services import BatchingPredictionService, ModelService

from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

# Says that neither TensorFlow Serving nor our own server gave an answer: their figures are others.
SERVED_BY = ("x-served-by", "deploy.ray")


class ModelReplica:
    """The deployment; a method for each gRPC method, called with the request and Ray's context of the call."""

    def __init__(self, settings):
        """Load the model that `settings`, the dict of a `settings.Settings`, names; wait for its first version.

        Raises: RuntimeError if its versions do not load.
        """
        self._timeout_s, self._name = settings["request_timeout"], settings["model_name"]
        self._core = ReplicaCore(settings)
        try:
            self._core.start()
        except ServingError as error:
            raise RuntimeError(error.message) from None  # that Ray can send, unlike a ServingError
        self._pool = ThreadPoolExecutor(settings["max_ongoing_requests"])
        self._handlers = Handlers(self._pool)
        self._prediction, self._models = BatchingPredictionService(self._core), ModelService(self._core)
        self._app = flask_server.create_app(ServedCore(self._core, self._name, self._timeout_s))

    def check_health(self):
        """Raise RuntimeError if no version of the model is loaded, on which Ray replaces the replica."""
        if not self._core.is_available(self._name):
            raise RuntimeError(f"no version of model {self._name} is available")
        self._core.return_to_newest()

    def __del__(self):
        """Free the models, when Ray stops the replica."""
        if core := getattr(self, "_core", None):
            core.stop()

    async def __call__(self, request):
        """Answer an HTTP request, a Starlette one, by the Flask application."""
        body = await request.body()
        answer = await asyncio.get_running_loop().run_in_executor(self._pool, self._run_app, request, body)
        response = Response(answer.get_data(), answer.status_code)
        response.raw_headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (*answer.headers, SERVED_BY)
        ]
        return response

    def _run_app(self, request, body):
        builder = EnvironBuilder(
            request.url.path,
            query_string=request.url.query,
            method=request.method,
            headers=request.headers.items(),
            input_stream=io.BytesIO(body),
        )
        environ = builder.get_environ()
        environ["PATH_INFO"] = request.scope["path"].encode().decode("latin-1")  # of //a/b, EnvironBuilder makes /b
        return WSGIResponse.from_app(self._app, environ, buffered=True)

    async def Predict(self, request, grpc_context):
        """Run a signature on tensors, batched with other requests."""
        return await self._call(self._prediction.Predict, request, grpc_context, predict_pb2.PredictResponse)

    async def Classify(self, request, grpc_context):
        """Run a signature on Examples; answer labels with scores."""
        response_class = classification_pb2.ClassificationResponse
        return await self._call(self._prediction.Classify, request, grpc_context, response_class)

    async def Regress(self, request, grpc_context):
        """Run a signature on Examples; answer one value each."""
        return await self._call(self._prediction.Regress, request, grpc_context, regression_pb2.RegressionResponse)

    async def MultiInference(self, request, grpc_context):
        """Run several signatures on the same Examples."""
        response_class = inference_pb2.MultiInferenceResponse
        return await self._call(self._prediction.MultiInference, request, grpc_context, response_class)

    async def GetModelMetadata(self, request, grpc_context):
        """Return the signatures of the model."""
        response_class = get_model_metadata_pb2.GetModelMetadataResponse
        return await self._call(self._prediction.GetModelMetadata, request, grpc_context, response_class)

    async def GetModelStatus(self, request, grpc_context):
        """Return the versions of the model and their states in this replica; the others agree within seconds."""
        response_class = get_model_status_pb2.GetModelStatusResponse
        return await self._call(self._models.GetModelStatus, request, grpc_context, response_class)

    async def HandleReloadConfigRequest(self, request, grpc_context):
        """Refuse: one replica would serve other models than the rest."""
        return await self._call(_refuse_reload, request, grpc_context, model_management_pb2.ReloadConfigResponse)

    async def _call(self, method, request, context, response_class):
        """Return the answer of a method; for an error set the status, and return an empty message.

        An exception would lose the trailing metadata, and reach the client as INTERNAL if Ray cannot pickle it.
        """
        context.set_trailing_metadata([SERVED_BY])
        try:
            return await self._handlers.call(method, request, request.ByteSize(), _Call(context, self._timeout_s))
        except ServingError as error:
            context.set_code(error.code)
            context.set_details(error.details())
            return response_class()


class _Call:
    """What the services ask of gRPC's context of a call; Ray's has no deadline, so the application's counts."""

    def __init__(self, context, timeout_s):
        self._context, self._deadline = context, time.monotonic() + timeout_s

    def time_remaining(self):
        """Return the seconds until the deadline."""
        return self._deadline - time.monotonic()

    def set_trailing_metadata(self, metadata):
        """Set the trailing metadata, with this server's name in place of the model server's."""
        self._context.set_trailing_metadata([SERVED_BY, *(pair for pair in metadata if pair[0] != SERVED_BY[0])])


def _refuse_reload(request, context):
    raise unimplemented("HandleReloadConfigRequest: the models of a cluster are set where it is deployed")
