"""TLS of the gRPC port (--ssl_config_file): an SSLConfig as gRPC's credentials."""

import contextlib
import os
import ssl
import tempfile

import grpc

from rnn_serving.model_server import text_protos
from rnn_serving.model_server.errors import invalid_argument


def read(path):
    """Return the gRPC credentials that the text file at `path` describes.

    Raises: ServingError for a file that is missing, does not parse, or whose key, certificate or CA is not valid: gRPC
    would only say that it cannot listen.
    """
    config = text_protos.read(path, text_protos.SSLConfig)
    _check(path, config)
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )


def _check(path, config):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        with _file(config.server_key + "\n" + config.server_cert) as pem:
            # The password of an encrypted key would be asked for in the terminal.
            context.load_cert_chain(pem, password=lambda: "")
    except (OSError, ssl.SSLError) as error:
        raise invalid_argument(
            f"{path}: server_key and server_cert: {error.strerror or error}; expected a key and its certificate in PEM"
        ) from error
    if config.client_verify and not config.custom_ca:
        raise invalid_argument(f"{path}: client_verify without custom_ca; expected the CA of the clients' certificates")
    if config.custom_ca:
        try:
            context.load_verify_locations(cadata=config.custom_ca)
        except (ssl.SSLError, ValueError) as error:
            raise invalid_argument(f"{path}: custom_ca: {error}; expected certificates in PEM") from error


@contextlib.contextmanager
def _file(text):
    """Yield the path of a file with a text, in memory where that is possible: a key should not be written to a disk."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pem")
        try:
            os.write(descriptor, text.encode())
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(text)
            file.flush()
            yield file.name
