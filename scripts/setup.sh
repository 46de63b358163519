# Sourced by run.sh and test.sh: makes .venv once and leaves $python set to its interpreter.

CDPATH='' cd -- "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

fail() {
    echo "$(basename "$0"): error: $*" >&2
    exit 1
}

find_python() {
    local name
    # Asked for its version because a name alone says little: pyenv puts python3.12 on PATH for versions it would refuse.
    for name in python3.11 python3.12 python3.13 python3; do
        if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
}

make_venv() {
    local base
    base=$(find_python)
    [ -n "$base" ] || fail "no Python found on PATH; expected one of 3.11 to 3.13"
    echo "Setting up .venv with $("$base" --version); this takes a minute or two" >&2
    rm -rf .venv
    if command -v uv >/dev/null; then
        uv venv --quiet --python "$base" .venv && uv pip install --quiet --python .venv/bin/python \
            --constraint constraints.txt --editable '.[dev]'
    else
        "$base" -c 'import ensurepip' 2>/dev/null || fail "$base has no ensurepip; on Debian and Ubuntu install it with:" \
            "apt-get install $("$base" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
        "$base" -m venv .venv && .venv/bin/python -m pip install --quiet --disable-pip-version-check \
            --constraint constraints.txt --editable '.[dev]'
    fi || fail "set-up failed; expected the packages of pyproject.toml to install (see above)"
}

ensure_venv() {
    local wanted stamp=.venv/installed
    # What was installed, and where: a checkout that was moved has an environment that points to its old place.
    wanted=$(pwd; cat pyproject.toml constraints.txt)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        make_venv
        echo "$wanted" >"$stamp"
    fi
}

# One set-up at a time, where the system has flock: two at once would install into the same directory.
if command -v flock >/dev/null; then
    exec 9>.setup.lock
    flock 9
    ensure_venv
    exec 9>&-
else
    ensure_venv
fi
python=.venv/bin/python
