"""Flask without sessions and host matching, which this application does not use."""

from flask import Flask
from flask.sessions import NullSession, SessionInterface


class _NoSessions(SessionInterface):
    def open_session(self, app, request):
        return _NO_SESSION

    def is_null_session(self, session):
        return True


_NO_SESSION = NullSession()


class LeanFlask(Flask):
    """A Flask application that looks up neither a session's cookie nor its routes by host."""

    session_interface = _NoSessions()

    def ensure_sync(self, func):
        """Return a view unchanged: none of the endpoint's is a coroutine."""
        return func

    def create_url_adapter(self, request):
        """Find routes by path and method alone."""
        if request is None:
            return super().create_url_adapter(request)
        return self.url_map.bind("localhost", path_info=request.path, default_method=request.method)
