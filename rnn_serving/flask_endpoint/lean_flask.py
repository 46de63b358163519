"""Flask without what an endpoint has no use for, a seventh of what it costs a request."""

from flask import Flask
from flask.sessions import NullSession, SessionInterface


class _NoSessions(SessionInterface):
    def open_session(self, app, request):
        return _NO_SESSION

    def is_null_session(self, session):
        return True


_NO_SESSION = NullSession()


class LeanFlask(Flask):
    """A Flask application that looks for no session's cookie, and for no meaning in the name of its host."""

    session_interface = _NoSessions()

    def ensure_sync(self, func):
        """Take a view for what it is: none of an endpoint's is a coroutine."""
        return func

    def create_url_adapter(self, request):
        """Find routes by path and method alone."""
        if request is None:
            return super().create_url_adapter(request)
        return self.url_map.bind("localhost", path_info=request.path, default_method=request.method)
