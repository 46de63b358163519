"""A real S3 API on loopback for tests: moto's server, and a TCP proxy that can cut or hold up its answers."""

import contextlib
import json
import re
import socket
import threading
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    # Nothing but loopback is asked for credentials or settings.
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    # Of botocore; s3fs adds its own attempts. A store that is down is found out in less than a second.
    "AWS_MAX_ATTEMPTS": "1",
}


@contextlib.contextmanager
def running_store(port=0):
    """Run an S3 server without objects; yield its port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()[1]
    finally:
        server.stop()


def variables(port, cache):
    """Return the environment variables of a user of the store at a port, with a cache directory."""
    return CREDENTIALS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "RNN_SERVING_CACHE_DIR": str(cache)}


class Bucket:
    """A new bucket with a base path `uri`, which tests change directly; what they test goes through `proxy`."""

    def __init__(self, name, port, proxy):
        self.name, self.proxy = re.sub("[^a-z0-9]+", "-", name.lower()), proxy
        self.uri = f"s3://{self.name}/models/mnist"
        self._arguments = {
            "endpoint_url": f"http://127.0.0.1:{port}",
            "region_name": "us-east-1",
            "aws_access_key_id": "key",
            "aws_secret_access_key": "secret",
        }
        self.s3 = boto3.client("s3", **self._arguments)
        self.s3.create_bucket(Bucket=self.name)

    def put(self, key, content=b"x"):
        """Write an object of the base path."""
        self.s3.put_object(Bucket=self.name, Key=f"models/mnist/{key}", Body=content)

    def publish(self, version, content=b"weights"):
        """Write a version that no server could load."""
        self.put(f"{version}/variables/variables.data-00000-of-00001", content)
        self.put(f"{version}/saved_model.pb", b"graph")

    def publish_directory(self, directory, version):
        """Write a version with the files of a directory."""
        files = [path for path in Path(directory).rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.name.startswith("saved_model")):
            self.put(f"{version}/{path.relative_to(directory).as_posix()}", path.read_bytes())

    def create_access_key(self):
        """Return the environment variables of a new user who may do everything with S3."""
        iam = boto3.client("iam", **self._arguments)
        iam.create_user(UserName=self.name)
        allowed = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        iam.put_user_policy(UserName=self.name, PolicyName="all", PolicyDocument=policy)
        key = iam.create_access_key(UserName=self.name)["AccessKey"]
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}

    def objects(self):
        """Return the keys of all objects of the base path."""
        found = self.s3.list_objects_v2(Bucket=self.name, Prefix="models/mnist/").get("Contents", [])
        return [each["Key"].removeprefix("models/mnist/") for each in found]

    def remove(self, prefix):
        """Remove the objects of the base path that begin with a prefix."""
        for key in self.objects():
            if key.startswith(prefix):
                self.s3.delete_object(Bucket=self.name, Key=f"models/mnist/{key}")


class Proxy:
    """A TCP proxy on loopback that passes no more than a number of bytes of answers on each connection."""

    def __init__(self, target_port):
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._changed, self._limit, self._holds = threading.Condition(), None, False
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, count):
        """Close every connection whose answers exceed `count` bytes; with 0 the store is down."""
        self._set(count, holds=False)

    def hold_after(self, count):
        """Hold up answers beyond `count` bytes of a connection, until the limit changes."""
        self._set(count, holds=True)

    def pass_all(self):
        """Set no limit."""
        self._set(None, holds=False)

    def close(self):
        """Stop listening, and close every connection that is used."""
        self.cut_after(0)
        self._listener.close()

    def _set(self, limit, holds):
        with self._changed:
            self._limit, self._holds = limit, holds
            self._changed.notify_all()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client):
        with client, contextlib.suppress(OSError):
            if self._limit == 0:
                return
            with socket.create_connection(self._target) as server:
                threading.Thread(target=self._copy_requests, args=(client, server), daemon=True).start()
                self._copy_answers(server, client)

    @staticmethod
    def _copy_requests(client, server):
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)

    def _copy_answers(self, server, client):
        passed = 0
        while data := server.recv(4096):
            passed += len(data)
            if not self._may_pass(passed):
                self.cuts += 1
                break
            client.sendall(data)
        client.shutdown(socket.SHUT_RDWR)  # which also ends the other direction

    def _may_pass(self, count):
        with self._changed:
            self._changed.wait_for(lambda: not self._holds or self._limit is None or count <= self._limit)
            return self._limit is None or count <= self._limit
