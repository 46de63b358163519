# Sourced by serve_tfserving.sh: collects in $mounts the flags of `docker run` that let a server in a container read the
# files and directories that its own flags name, each read-only and at the same path. Bash 3.2, which macOS has, runs it.

mounts=() mounted=()

# Mount what the flags in the array $flags name, and write the paths there as absolute ones.
mount_paths_of_flags() {
    local index flag
    for index in "${!flags[@]}"; do
        flag=${flags[$index]}
        case $flag in
            --model_base_path=?*) mount_model "${flag#*=}" ;;
            --model_config_file=?*) mount_models_of "${flag#*=}"; mount_file_of "$index" ;;
            --*_file=?*) mount_file_of "$index" ;;
            --grpc_socket_path=?*) fail "$flag: a socket in a container cannot be reached; expected --port" ;;
        esac
    done
}

# Mount a file or a directory, unless it is in a directory that is mounted already.
add_mount() {
    local earlier source="source=$1" target="target=$1"
    for earlier in ${mounted[@]+"${mounted[@]}"}; do
        case $1 in "$earlier" | "$earlier"/*) return ;; esac
    done
    # Docker reads the value as a line of CSV.
    case $1 in *,*) source="\"$source\"" target="\"$target\"" ;; esac
    mounts+=(--mount "type=bind,$source,$target,readonly")
    mounted+=("$1")
}

# Mount the file of the flag with that index. Editors replace files, and a bind-mounted file would keep its old content.
# So mount the directory of a polled file.
mount_file_of() {
    local name=${flags[$1]%%=*} file=${flags[$1]#*=}
    [ -f "$file" ] || fail "$name=$file: no such file; expected one to mount into the container"
    file=$(absolute_path "$file")
    flags[$1]=$name=$file
    case "$name ${flags[*]} " in
        --model_config_file\ *\ --model_config_file_poll_wait_seconds=[1-9]*) add_mount "$(dirname "$file")" ;;
        *) add_mount "$file" ;;
    esac
}

# Mount a model's directory, and those of its versions that are links to another place.
mount_model() {
    local version directory=${1#file://}
    is_remote "$directory" && return
    add_mount "$directory"
    for version in "$directory"/[0-9]*; do
        if [ -L "$version" ] && [ -d "$version" ]; then
            add_mount "$(CDPATH='' cd -- "$version" && pwd -P)"
        fi
    done
}

# Mount the models in a file with a ModelServerConfig.
mount_models_of() {
    local path
    [ -f "$1" ] || return 0
    while IFS= read -r path; do
        # The server rejects a relative one with its own message.
        [[ ${path#file://} == /* ]] || continue
        [ -d "${path#file://}" ] ||
            fail "$1: base_path $path: no such directory; expected one to mount into the container"
        mount_model "$path"
    done < <(base_paths "$1")
}

# Print the base paths in a file with a ModelServerConfig, one on a line.
base_paths() {
    local line text='' quotes not_quotes="[!\"']"
    local field="base_path[[:space:]]*:[[:space:]]*(\"([^\"]*)\"|'([^']*)')(.*)"
    while IFS= read -r line || [ -n "$line" ]; do
        quotes=${line%%#*}
        quotes=${quotes//$not_quotes/}
        # Outside of quotes, # begins a comment.
        if ((${#quotes} % 2 == 0)); then line=${line%%#*}; fi
        text="$text $line"
    done <"$1"
    while [[ $text =~ $field ]]; do
        text=${BASH_REMATCH[4]-}
        echo "${BASH_REMATCH[2]-}${BASH_REMATCH[3]-}"
    done
}
