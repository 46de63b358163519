"""A connection that sends each answer at once."""

import gevent.socket


class AnswerSocket(gevent.socket.socket):
    """gevent's socket, which keeps an answer's head back until there is something to send with it.

    gunicorn writes head and body one after the other; sending costs more than anything else that it does.
    """

    _head = b""

    def sendall(self, data, flags=0):
        """Send all bytes, after those that are kept back."""
        if not self._head and data[:5] == b"HTTP/" and data[-4:] == b"\r\n\r\n":
            self._head = data
            return
        data, self._head = self._head + data, b""
        sent = self.send(data, flags)
        if sent < len(data):
            super().sendall(memoryview(data)[sent:], flags)

    def flush(self):
        """Send a head that has no body."""
        if self._head:
            self.sendall(b"")
