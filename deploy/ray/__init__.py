"""The model server and the Flask endpoint as an application of Ray Serve: replicas of one model on several machines.

__main__.py      the command that starts it; cluster.py starts and stops Ray and Serve for it
application.py   its settings, and the application that `serve deploy` builds from them
replica.py       one replica: gRPC calls and HTTP requests that Ray's proxies forward, answered by one loaded model
served_model.py  that model as the Flask application wants it
"""
