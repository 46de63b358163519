# Sourced by run.sh and test.sh: creates .venv when it is missing or out of date, and sets $python to its interpreter.

CDPATH='' cd -- "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

fail() {
    echo "$(basename "$0"): error: $*" >&2
    exit 1
}

find_python() {
    local name
    # python3 first: it is the interpreter that the caller has selected. Each name is run, because finding it is not
    # enough: pyenv puts python3.12 on PATH even if that version is not active.
    for name in python3 python3.11 python3.12 python3.13; do
        if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
}

make_venv() {
    # Leave out an active .venv: it is about to be removed, and its Python with it.
    local base active=$PWD/.venv/bin:
    local PATH=${PATH//"$active"/}
    base=$(find_python)
    [ -n "$base" ] || fail "no suitable Python on PATH; expected Python 3.11, 3.12 or 3.13"
    echo "Setting up .venv with $("$base" --version); this takes a minute or two" >&2
    rm -rf .venv
    if command -v uv >/dev/null; then
        uv venv --quiet --python "$base" .venv && uv pip install --quiet --python .venv/bin/python \
            --constraint constraints.txt --editable '.[dev]'
    else
        "$base" -c 'import ensurepip' 2>/dev/null ||
            fail "$base has no ensurepip; on Debian and Ubuntu install it with:" \
                "apt-get install $("$base" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
        "$base" -m venv .venv && .venv/bin/python -m pip install --quiet --disable-pip-version-check \
            --constraint constraints.txt --editable '.[dev]'
    fi || fail "set-up failed; expected the packages of pyproject.toml to install (see the output above)"
}

ensure_venv() {
    local wanted stamp=.venv/installed
    # The directory is part of the stamp: the environment of a checkout that was moved refers to the old location.
    wanted=$(pwd; cat pyproject.toml constraints.txt)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        make_venv
        echo "$wanted" >"$stamp"
    fi
}

# Where flock exists, allow one set-up at a time: two would install into the same directory.
if command -v flock >/dev/null; then
    exec 9>.setup.lock
    flock 9
    ensure_venv
    exec 9>&-
else
    ensure_venv
fi
python=.venv/bin/python
