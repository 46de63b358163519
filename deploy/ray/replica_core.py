"""The model server's core as a replica runs it: its options, and a start in spite of a broken version."""

import logging

from rnn_serving.model_server import flags, model_config, text_protos
from rnn_serving.model_server.batching_options import BatchingOptions
from rnn_serving.model_server.core import ServerCore
from rnn_serving.model_server.errors import ServingError
from rnn_serving.model_server.options import complete
from rnn_serving.model_server.servable import State

from tensorflow_serving.apis import model_pb2

log = logging.getLogger(__name__)

# Rows that may wait for a batch: more than Ray's limit on requests lets in, so the batches never refuse one.
MAX_WAITING_ROWS = 2**20
# How many of the newest versions are tried, one after the other, if those after them are broken.
FALLBACKS = (2, 4, 8)


class ReplicaCore(ServerCore):
    """A core that starts with an older version if the newest is broken, as a replica that runs already keeps it."""

    def __init__(self, settings):
        """Prepare to serve what `settings`, the dict of a `settings.Settings`, names."""
        super().__init__(_server_options(settings))
        self._name, self._is_behind = settings["model_name"], False

    def start(self):
        """Load the newest version that loads.

        Raises: ServingError of the newest if none does.
        """
        try:
            super().start()
        except ServingError as error:
            self._start_behind(error)

    def _start_behind(self, newest_error):
        for count in FALLBACKS:
            try:
                self._keep_newest(count)
            except ServingError:
                continue
            self._is_behind = True
            log.warning("Serving an older version: %s", newest_error)
            return
        raise newest_error

    def return_to_newest(self):
        """Keep the newest version alone once it is available, if the core has started with an older one."""
        versions = self.status(model_pb2.ModelSpec(name=self._name)).model_version_status
        if self._is_behind and versions[0].state == State.AVAILABLE:
            self._keep_newest(1)
            self._is_behind = False

    def _keep_newest(self, count):
        config = model_config.initial_config(self.options)
        config.model_config_list.config[0].model_version_policy.latest.num_versions = count
        self.reload(config)


def _server_options(settings):
    """Return the options of the model server for the settings of a replica."""
    options = flags.parse(
        [
            f"--model_name={settings['model_name']}",
            f"--model_base_path={settings['model_base_path']}",
            # Ray starts a replica that failed again; waiting for minutes in here, it would look like a slow one.
            "--max_num_load_retries=0",
        ]
    )
    options = complete(options)
    if settings["batching"] != "off":
        parameters = text_protos.BatchingParameters()
        parameters.max_batch_size.value = MAX_WAITING_ROWS
        parameters.enable_large_batch_splitting.value = True
        parameters.max_execution_batch_size.value = settings["max_batch_size"]
        parameters.max_enqueued_batches.value = MAX_WAITING_ROWS
        parameters.batch_timeout_micros.value = settings["batch_timeout_micros"]
        options.batching = BatchingOptions.of(parameters, needs_independent_rows=settings["batching"] == "auto")
    return options
