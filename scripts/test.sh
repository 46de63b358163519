#!/usr/bin/env bash
# Set up, lint, test. `scripts/test.sh --slow` runs the slow tests too; other arguments go to pytest.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

"$python" -m ruff check .
"$python" -m ruff format --check .
if [ "${1:-}" = --slow ]; then
    shift
    exec "$python" -m pytest "$@"
fi
exec "$python" -m pytest -m 'not slow' "$@"
