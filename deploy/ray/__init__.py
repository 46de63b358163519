"""The model server and the Flask endpoint as an application of Ray Serve: replicas of one model on several machines.

__main__.py      the command that starts it; ports.py checks ports, cluster.py starts and stops Ray and Serve
settings.py      what to serve and how: its flags, or the `args` of a Serve config file
application.py   the application of these settings, for the command and for `serve deploy`
replica.py       one replica: gRPC calls and HTTP requests that Ray's proxies forward, answered by one loaded model
replica_core.py  that model: the model server's core with the settings
served_model.py  that model as the Flask application wants it
"""
