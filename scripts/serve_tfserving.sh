#!/usr/bin/env bash
# Step 4: serve the exported model over gRPC and REST with what this machine has: tensorflow_model_server on PATH,
# else Docker's tensorflow/serving if the image is there, else this project's own rnn_serving.model_server.
#
#     scripts/serve_tfserving.sh [--port=9000] [--rest_api_port=8501] [--model_name=mnist] [--model_base_path=exports/mnist]
#
# More flags may follow. They are those of tensorflow_model_server and reach any of the three unchanged. TFSERVING=binary, docker or
# python forces one; only TFSERVING=docker may pull the image.
set -euo pipefail

image=tensorflow/serving
port=9000 rest=8501 name=mnist base=exports/mnist others=()
for argument in "$@"; do
    case $argument in
        --port=*) port=${argument#*=} ;;
        --rest_api_port=*) rest=${argument#*=} ;;
        --model_name=*) name=${argument#*=} ;;
        --model_base_path=*) base=${argument#*=} ;;
        --help | -h) sed -n '2,/^set/s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) others+=("$argument") ;;
    esac
done

fail() {
    echo "serve_tfserving.sh: error: $*" >&2
    exit 1
}

has_version() {
    local directory
    for directory in "$base"/[0-9]*/; do
        [[ $(basename "$directory") =~ ^0*[1-9][0-9]*$ && -f $directory/saved_model.pb ]] && return
    done
    return 1
}

has_image() {
    # A docker command without a daemon is common, and may take minutes to say so.
    command -v docker >/dev/null && timeout 3 docker image inspect "$image" >/dev/null 2>&1
}

has_version || fail "$base has no version to serve; expected $base/<version>/saved_model.pb, as export_savedmodel.py writes it"
base=$(CDPATH='' cd -- "$base" && pwd)
flags=("--port=$port" "--rest_api_port=$rest" "--model_name=$name" "--model_base_path=$base" ${others[@]+"${others[@]}"})

choice=${TFSERVING:-}
if [ -z "$choice" ]; then
    if command -v tensorflow_model_server >/dev/null; then choice=binary
    elif has_image; then choice=docker
    else choice=python
    fi
fi
case $choice in
    binary)
        command -v tensorflow_model_server >/dev/null || fail "no tensorflow_model_server on PATH; expected one with TFSERVING=binary"
        command=(tensorflow_model_server)
        ;;
    docker)
        publish=(--publish "127.0.0.1:$port:$port")
        [ "$rest" = 0 ] || publish+=(--publish "127.0.0.1:$rest:$rest")
        command=(docker run --rm --init "${publish[@]}" --mount "type=bind,source=$base,target=$base,readonly"
            --entrypoint tensorflow_model_server "$image")
        ;;
    python)
        python=${PYTHON:-$(CDPATH='' cd -- "$(dirname "$0")/.." && pwd)/.venv/bin/python}
        command -v "$python" >/dev/null || fail "no $python; expected an environment, ./scripts/test.sh makes one"
        command=("$python" -m rnn_serving.model_server)
        ;;
    *) fail "TFSERVING=$choice; expected binary, docker or python" ;;
esac

echo "Starting ${command[*]} ${flags[*]}"
# In the place of this shell, so that signals reach the server itself.
exec "${command[@]}" "${flags[@]}"
