"""A server that speaks TensorFlow Serving's API: same flags, same calls, same answers and the same words in errors.

flags.py               the command line of tensorflow_model_server
options.py             what the flags mean together; text_protos.py reads the files that they name
core.py                the models of the server, their labels, and finding the version a request means
file_system_source.py  directories -> the versions there should be
manager.py             loads and unloads until they are; servable.py is one version, warmup.py its first requests
predict.py             Predict; inference.py Classify, Regress, MultiInference; metadata.py GetModelMetadata
batching_session.py    joins requests as TensorFlow Serving does, on rnn_serving.batching
tensors.py             TensorProto to array and back, as C++ does both
grpc_server.py         the services on a gRPC port
rest_server.py         the paths on the HTTP port; json_requests.py, json_answers.py and json_text.py its JSON
monitoring.py          metrics for Prometheus
errors.py              a status code and a message
"""
