"""Send requests to servers without a pause, as the clients of a Service do, until told to leave."""

import threading
import time

import requests

from rnn_serving.clients.http_json import causes, direct_session

CALLERS, LIMIT_S = 4, 30


class SteadyLoad:
    """POST one body to the first of several URLs that answers, in a `with`; each answer has to be 200.

    A caller whose connection is refused, or that gets a 503, asks the next URL, as it would behind a Service. A request
    that was accepted and then dropped is lost.
    """

    def __init__(self, urls, body):
        self._urls, self._body = urls, body
        self.answered, self.lost = [], []
        self._is_leaving = threading.Event()
        self._callers = [threading.Thread(target=self._ask_until_leaving, daemon=True) for _ in range(CALLERS)]

    def __enter__(self):
        for caller in self._callers:
            caller.start()
        return self

    def __exit__(self, *error):
        self.leave()
        for caller in self._callers:
            caller.join(LIMIT_S)
        assert not any(caller.is_alive() for caller in self._callers)

    def leave(self):
        """Send no more requests; those in flight are still waited for."""
        self._is_leaving.set()

    def wait_for_answers(self, count):
        """Wait until that many more requests have been answered or lost."""
        wanted, deadline = len(self.answered) + count, time.monotonic() + LIMIT_S
        while len(self.answered) < wanted and not self.lost:
            assert time.monotonic() < deadline, f"{len(self.answered)} answers; expected {wanted}"
            time.sleep(0.01)

    def in_flight_at(self, moment):
        """Return how many of the answered requests were in flight at a `time.monotonic()`."""
        return sum(began < moment < ended for began, ended in self.answered)

    def _ask_until_leaving(self):
        with direct_session() as session:
            while not self._is_leaving.is_set():
                began = time.monotonic()
                said = self._ask(session)
                if said:
                    self.lost.append(said)
                else:
                    self.answered.append((began, time.monotonic()))

    def _ask(self, session):
        """Return why a request was lost, None if it was answered."""
        said = []
        for url in self._urls:
            try:
                answer = session.post(url, json=self._body, timeout=LIMIT_S)
            except requests.ConnectionError as error:
                said.append(f"{url}: {error}")
                if any(isinstance(cause, ConnectionRefusedError) for cause in causes(error)):
                    continue
                break
            if answer.status_code == 200:
                return None
            said.append(f"{url}: {answer.status_code} {answer.text[:200]}")
            if answer.status_code != 503:
                break
        return said
