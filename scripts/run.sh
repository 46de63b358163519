#!/usr/bin/env bash
# Set up, then run every step in order. The arguments are those of scripts/run_pipeline.py.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

exec "$python" scripts/run_pipeline.py "$@"
