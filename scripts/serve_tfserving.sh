#!/usr/bin/env bash
# Step 4: serve the exported model over gRPC and REST with the first of these that is installed:
# tensorflow_model_server on PATH, the Docker image tensorflow/serving, or this project's rnn_serving.model_server.
#
#     scripts/serve_tfserving.sh [--port=9000] [--rest_api_port=8501] [--model_name=mnist]
#         [--model_base_path=exports/mnist] [--host=127.0.0.1]
#
# Other flags of tensorflow_model_server are passed on. With --model_config_file, the models are those in the file.
# TFSERVING=binary, docker or python selects a server; only TFSERVING=docker may pull the image.
set -euo pipefail
# Streams that cron or a daemon closed (`>&-`): echo would fail, and the server's files would take their place.
[ -e /dev/fd/0 ] || exec </dev/null
[ -e /dev/fd/1 ] || exec >/dev/null
[ -e /dev/fd/2 ] || exec 2>/dev/null

image=tensorflow/serving
port=9000 rest=8501 name=mnist base=exports/mnist host='' has_config='' others=()
for argument in "$@"; do
    case $argument in
        --port=*) port=${argument#*=} ;;
        --rest_api_port=*) rest=${argument#*=} ;;
        --model_name=*) name=${argument#*=} ;;
        --model_base_path=*) base=${argument#*=} ;;
        --host=*) host=${argument#*=} ;;
        --model_config_file=?*) has_config=yes others+=("$argument") ;;
        --help | -h) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) others+=("$argument") ;;
    esac
done

fail() {
    echo "serve_tfserving.sh: error: $*" >&2
    exit 1
}

is_remote() {
    [[ $1 == *://* ]]
}

absolute_path() {
    if [ -d "$1" ]; then
        (CDPATH='' cd -- "$1" && pwd)
    else
        echo "$(absolute_path "$(dirname "$1")")/$(basename "$1")"
    fi
}

has_version() {
    local directory
    for directory in "$1"/[0-9]*/; do
        [[ $(basename "$directory") =~ ^0*[1-9][0-9]*$ ]] || continue
        [ ! -f "$directory/saved_model.pb" ] && [ ! -f "$directory/saved_model.pbtxt" ] || return 0
    done
    return 1
}

has_image() {
    # The docker command is often installed without a daemon, and may then hang for minutes.
    command -v docker >/dev/null && succeeds_soon docker image inspect "$image"
}

# Whether a command succeeds within three seconds; macOS has no `timeout`.
succeeds_soon() {
    local pid tenths
    "$@" >/dev/null 2>&1 &
    pid=$!
    for ((tenths = 0; tenths < 30; tenths++)); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null
}

flags=("--port=$port" "--rest_api_port=$rest")
if [ -z "$has_config" ]; then
    local_base=${base#file://}
    is_remote "$local_base" || has_version "$local_base" ||
        fail "$base has no version to serve; expected $base/<version>/saved_model.pb, as export_savedmodel.py writes it"
    is_remote "$base" || base=$(absolute_path "$base")
    flags+=("--model_name=$name" "--model_base_path=$base")
fi
flags+=(${others[@]+"${others[@]}"})

choice=${TFSERVING:-}
if [ -z "$choice" ]; then
    if command -v tensorflow_model_server >/dev/null; then choice=binary
    elif has_image; then choice=docker
    else choice=python
    fi
fi
case $choice in
    binary)
        command -v tensorflow_model_server >/dev/null ||
            fail "no tensorflow_model_server on PATH; TFSERVING=binary expects one"
        [ -z "$host" ] || fail "--host=$host: tensorflow_model_server has no such flag, it listens on all addresses"
        command=(tensorflow_model_server)
        ;;
    docker)
        command -v docker >/dev/null || fail "no docker on PATH; TFSERVING=docker expects it"
        source "$(dirname "$0")/container_mounts.sh"
        mount_paths_of_flags
        case $host in
            '' | localhost) host=127.0.0.1 ;;
            *:*) host=[${host//[][]/}] ;;
        esac
        command=(docker run --rm --init)
        [ "$port" = 0 ] || command+=(--publish "$host:$port:$port")
        [ "$rest" = 0 ] || command+=(--publish "$host:$rest:$rest")
        command+=(${mounts[@]+"${mounts[@]}"} --entrypoint tensorflow_model_server "$image")
        ;;
    python)
        python=${PYTHON:-$(CDPATH='' cd -- "$(dirname "$0")/.." && pwd)/.venv/bin/python}
        command -v "$python" >/dev/null || fail "no $python; expected an environment, which ./scripts/setup.sh creates"
        command=("$python" -m rnn_serving.model_server)
        [ -z "$host" ] || flags+=("--host=$host")
        ;;
    *) fail "TFSERVING=$choice; expected binary, docker or python" ;;
esac

echo "Starting ${command[*]} ${flags[*]}"
# Replace this shell, so that signals reach the server itself.
exec "${command[@]}" "${flags[@]}"
