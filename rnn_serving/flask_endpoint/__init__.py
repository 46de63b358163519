"""What production adds to `flask_server.py`: processes and validation."""
