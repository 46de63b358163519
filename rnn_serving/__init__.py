"""Library code of the scripts in the repository's root."""

from rnn_serving import bare_process

# Here, before any other import opens a file under the descriptor of a closed stream.
bare_process.open_closed_streams()
bare_process.find_temporary_directory()
