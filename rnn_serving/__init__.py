"""What two or more of the steps at the root share."""

from rnn_serving import bare_process

# Here, before any other import opens a file under the descriptor of a closed stream.
bare_process.open_closed_streams()
bare_process.find_temporary_directory()
