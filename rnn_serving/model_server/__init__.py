"""A server that speaks TensorFlow Serving's API: same flags, same calls, same answers and the same words in errors.

flags.py         the command line of tensorflow_model_server
models.py        which versions are loaded, and finding the one a request means
predict.py       the Predict call
metadata.py      GetModelMetadata
tensors.py       TensorProto to array and back, as C++ does both
grpc_server.py   the services on a gRPC port
errors.py        a status code and a message
"""
