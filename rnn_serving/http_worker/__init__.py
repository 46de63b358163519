"""The gunicorn worker that runs the endpoint, by rnn_serving.http_server: connections balanced over the workers.

gunicorn_server.py   starts gunicorn from Python with this worker
worker.py            the worker: its life, its model, its turn to accept
greenlets.py         how requests wait for their batch, and for calls of gRPC
heartbeat.py         the heartbeat of each worker, in memory
balance.py           connections of each worker, in shared memory
request_log.py       metrics and the access log

docs/http_worker.md has measurements of what each piece gains.
"""
