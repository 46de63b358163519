"""What production adds to the application of flask_server.py; it runs under any WSGI server.

json_api.py           a request's JSON, checked, and answers and errors as JSON
signature.py          which tensors of a model a request feeds and fetches
tensor_from_json.py   nested lists to a tensor, every element checked, and back
open_model.py         what the flags ask for: LiveModel, StoredModel, or GatewayModel for --backend
live_model.py         the newest version under a directory, hot-swapped
stored_model.py       the same for versions at an object store
batched_model.py      one version, which batches concurrent requests
gateway_model.py      a model server behind the endpoint; backend.py asks it over gRPC
backend_addresses.py  addresses of model servers, as users type them and as gRPC takes them
threads.py            how requests wait under a WSGI server with threads
operations.py         metadata, health, readiness, metrics and the page
metrics.py            Prometheus metrics, summed over the workers
lean_flask.py         Flask without sessions and host matching
"""
