#!/usr/bin/env bash
# Set up, lint, then test:
#
#     scripts/test.sh [--slow] [arguments of pytest]
#
# --slow includes the slow tests. The arguments of pytest are listed by `.venv/bin/python -m pytest --help`.
set -euo pipefail
case ${1:-} in
    --help | -h) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
esac
source "$(dirname "$0")/setup.sh"

"$python" -m ruff check .
"$python" -m ruff format --check .
.venv/bin/hadolint deploy/Dockerfile
"$python" -m yamllint --strict .github .yamllint.yaml deploy
if command -v actionlint >/dev/null; then
    actionlint .github/workflows/*.yml
else
    echo "Skipping the check of .github/workflows: actionlint is not on PATH" >&2
fi
if [ "${1:-}" = --slow ]; then
    shift
    exec "$python" -m pytest "$@"
fi
exec "$python" -m pytest -m 'not slow' "$@"
