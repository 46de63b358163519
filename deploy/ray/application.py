"""The application that `serve deploy` and the command build from its settings."""

from ray import serve

from deploy.ray.replica import ModelReplica
from deploy.ray.settings import Settings

APPLICATION, DEPLOYMENT = "model", "ModelReplica"
# What Ray's proxies forward to the replicas.
GRPC_SERVICES = (
    "tensorflow_serving.apis.prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server",
    "tensorflow_serving.apis.model_service_pb2_grpc.add_ModelServiceServicer_to_server",
)


def build(args: Settings):
    """Return the application: `import_path: deploy.ray.application:build` in a Serve config file."""
    deployment = serve.deployment(name=DEPLOYMENT, **args.deployment_options())(ModelReplica)
    return deployment.bind(args.model_dump())
