"""TLS of the connections to a server: the flags, gRPC's channels, and why a connection failed. No TensorFlow."""

import contextlib
import socket
import ssl
from dataclasses import dataclass

from rnn_serving.command_line import UserError

PROBE_TIMEOUT_S = 2.0
_REFUSED_CERTIFICATE = "the server refuses the client's certificate (--tls_cert_file): of another CA, or expired"
# What OpenSSL's alerts mean for a client.
_ALERTS = {
    "CERTIFICATE_REQUIRED": "the server requires a certificate of the client; expected --tls_cert_file",
    "UNKNOWN_CA": "the server does not trust the CA of the client's certificate (--tls_cert_file)",
    "CERTIFICATE_EXPIRED": "the client's certificate has expired (--tls_cert_file)",
    "BAD_CERTIFICATE": _REFUSED_CERTIFICATE,
    "WRONG_VERSION_NUMBER": "the server does not speak TLS; expected no https:// and no --tls_... flags",
}


@dataclass(frozen=True)
class TLS:
    """How to connect by TLS: PEM files with the CAs to trust, by default the library's, and the client's identity."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    @property
    def identity(self):
        """The client's certificate and key as requests takes them, None without one."""
        return (self.cert_file, self.key_file) if self.cert_file else None

    def context(self):
        """Return an ssl.SSLContext. Raises: UserError for a file that is missing or is not what it should be."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise UserError(f"--tls_ca_file {self.ca_file}: {_reason(error)}; expected certificates in PEM") from error
        if self.cert_file:
            try:
                # The password of an encrypted key would be asked for in the terminal.
                context.load_cert_chain(self.cert_file, self.key_file, password=lambda: "")
            except (OSError, ssl.SSLError) as error:
                raise UserError(
                    f"--tls_cert_file {self.cert_file}, --tls_key_file {self.key_file}: {_reason(error)}; "
                    "expected a certificate and its key in PEM, without a password"
                ) from error
        return context


def add_flags(parser):
    """Add the flags that `from_flags` reads."""
    parser.add_argument("--tls_ca_file", metavar="FILE", help="connect to the server by TLS and trust these CAs, PEM")
    parser.add_argument("--tls_cert_file", metavar="FILE", help="the client's certificate, PEM")
    parser.add_argument("--tls_key_file", metavar="FILE", help="the key of --tls_cert_file, PEM")


def from_flags(args, is_https=False):
    """Return the `TLS` that the flags ask for, None without one; `is_https` says that the address begins so.

    Raises: UserError for a file that is missing or is not what it should be.
    """
    if bool(args.tls_cert_file) != bool(args.tls_key_file):
        raise UserError("expected both --tls_cert_file and --tls_key_file, or neither")
    if not (args.tls_ca_file or args.tls_cert_file or is_https):
        return None
    tls = TLS(args.tls_ca_file, args.tls_cert_file, args.tls_key_file)
    tls.context()
    return tls


def open_channel(target, options, tls=None):
    """Return a gRPC channel, by TLS if `tls` is one."""
    # Imported here: HTTP clients do without gRPC.
    import grpc

    if tls is None:
        return grpc.insecure_channel(target, options)
    files = (tls.ca_file, tls.key_file, tls.cert_file)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(*map(_content, files)), options)


def tls_refusal(address, tls=None, may_guess=False):
    """Return why a server at HOST:PORT does not take a connection with or without TLS; None if it is another reason.

    With `may_guess`, a connection that the server closes during or after the handshake counts too: gRPC says no more
    when it refuses a client's certificate, but a proxy before a server that is still starting closes it as well.
    """
    context = tls.context() if tls else _trusting_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), port), PROBE_TIMEOUT_S) as connection:
            with context.wrap_socket(connection, server_hostname=host.strip("[]")) as secure:
                if tls is None:
                    return "the server speaks TLS; expected --tls_ca_file"
                return _after_handshake(secure, tls) if may_guess else None
    except ssl.SSLCertVerificationError as error:
        return f"the server's certificate is not accepted: {error.verify_message} (--tls_ca_file)"
    except ssl.SSLError as error:
        if tls is None:
            return None
        reason = error.reason or str(error)
        other = f"the TLS handshake failed: {reason}" if may_guess else None
        return next((text for alert, text in _ALERTS.items() if alert in reason), other)
    except OSError:
        return None


def _after_handshake(connection, tls):
    """Return why a server refuses a client: in TLS 1.3, it looks at the client's certificate after the handshake."""
    with contextlib.suppress(TimeoutError):  # an HTTP server waits for a request
        if not connection.recv(1):
            return _REFUSED_CERTIFICATE if tls.cert_file else _ALERTS["CERTIFICATE_REQUIRED"]
    return None


def _trusting_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _content(path):
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


def _reason(error):
    return getattr(error, "reason", None) or error.strerror or str(error)
