"""A Keras 3 model as a SavedModel with named input and output, and a request to the server that serves it."""
