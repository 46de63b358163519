"""A pip-installable server with TensorFlow Serving's API: the same flags, calls, answers and error messages.

__main__.py              starts and stops the server
flags.py                 the command line of tensorflow_model_server
options.py               validates the flags together; text_protos.py reads the files they name, batching_options.py
                         and platform_config.py validate two of them

core.py                  the models of a server and their labels; looks up the version that a request names
model_config.py          validates a ModelServerConfig
file_system_source.py    finds the versions to serve in the model directories
store_mirrors.py         keeps local copies of the models at object stores
manager.py               loads and unloads versions to match; servable.py is one version, warmup.py its warm-up requests

predict.py               Predict
inference.py             Classify, Regress and MultiInference; inference_signatures.py checks what these calls may
                         run, inference_results.py turns output arrays into labels, scores and values
metadata.py              GetModelMetadata
batching_session.py      batches concurrent requests as TensorFlow Serving does, on rnn_serving.batching
tensors.py               TensorProto to array and back, as the C++ server does it

grpc_server.py           the gRPC port, server_credentials.py its TLS; grpc_services.py its services, grpc_handlers.py
                         parses requests for them, event_loop_server.py runs them as coroutines, open_streams.py ends
                         those that clients keep open, grpc_reflection_service.py describes them to tools
rest_server.py           the HTTP port, by rnn_serving.http_server; rest_application.py answers, rest_routes.py parses
                         the paths
unpacking.py             limits the memory of requests that are small on the wire
json_text.py             JSON parsed and written as RapidJSON does; rapidjson_parser.py is its exact grammar
json_values.py           single JSON values of each dtype; json_tensors.py nested lists of them
json_predict_inputs.py   the inputs of a predict request; json_examples.py those of classify and regress
json_answers.py          the bodies of answers

monitoring.py            metrics for Prometheus
errors.py                ServingError: a status code and a message
"""

# What every answer carries, so that no report takes this server for the C++ one: a header in REST, and in gRPC
# trailing metadata, as initial metadata sent early would rule out the client's retries.
SERVED_BY = (("x-served-by", "rnn_serving.model_server"),)
