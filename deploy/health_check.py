"""Exit with 0 if a server of this container is ready: python -m deploy.health_check URL [URL...]

One URL has to answer, with a status below 500: a container runs one of several servers.
"""

import http.client
import sys
from urllib.parse import urlsplit

TIMEOUT_S = 4


def status(url):
    """Return the HTTP status of GET; raise OSError or HTTPException if there is none. Proxies are not used."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=TIMEOUT_S)
    try:
        connection.request("GET", address.path or "/")
        return connection.getresponse().status
    finally:
        connection.close()


def describe(url):
    """Return (whether the server is ready, what it said)."""
    try:
        found = status(url)
    except (OSError, http.client.HTTPException) as error:
        return False, f"{url}: {error or type(error).__name__}"
    return found < 500, f"{url}: status {found}"


def main(urls):
    """Ask each URL; return the exit status."""
    answers = [describe(url) for url in urls]
    if any(is_ready for is_ready, _ in answers):
        return 0
    print(*(said for _, said in answers), "expected one that answers with a status below 500", sep="; ")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
