# Shared by the scripts: sourced, never run.
# shellcheck shell=bash

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=$ROOT/.cache
TOOLS=$CACHE/tools

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    BOLD=$'\e[1m' GREEN=$'\e[32m' RED=$'\e[31m' DIM=$'\e[2m' PLAIN=$'\e[0m'
else
    BOLD='' GREEN='' RED='' DIM='' PLAIN=''
fi

say() { printf '%s\n' "$*"; }
fail() { printf '%serror:%s %s\n' "$RED" "$PLAIN" "$*" >&2; exit 1; }

# as_root COMMAND...: runs it as root, or says what to do.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo -- "$@"
    else
        fail "this needs root: $*
Run it as root, or allow sudo without a password."
    fi
}

# debian REASON PACKAGE...: installs Debian packages that are missing.
debian() {
    local reason=$1 package missing=()
    shift
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "please install ${missing[*]}: $reason"
    say "installing Debian ${missing[*]}: $reason"
    mkdir -p "$CACHE"
    if ! { as_root apt-get -qq update &&
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get -qq install -y --no-install-recommends "${missing[@]}"; } \
        >"$CACHE/apt.log" 2>&1; then
        tail -n 20 "$CACHE/apt.log" >&2
        fail "apt-get could not install ${missing[*]}"
    fi
}

# The engine's socket, for curl. A TCP DOCKER_HOST is used as it is.
engine_curl() {
    local path=$1 host=${DOCKER_HOST:-unix:///var/run/docker.sock}
    shift
    case $host in
        unix://*) curl -sS --unix-socket "${host#unix://}" "$@" "http://engine$path" ;;
        tcp://*) curl -sS "$@" "http://${host#tcp://}$path" ;;
        *) fail "DOCKER_HOST=$host: only unix:// and tcp:// are understood" ;;
    esac
}

# start_server BINARY DATA_DIR NODE: on a free port; sets ADDRESS, TOKEN_FILE,
# SERVER_PID. The caller stops it with stop_server.
start_server() {
    local binary=$1 data=$2 node=$3 log=$2/server.log line=
    mkdir -p "$data"
    CONTAINER_SVC_DATA_DIR=$data CONTAINER_SVC_NETWORK=$node OB_NODE_ID=$node \
        "$binary" serve --listen 127.0.0.1:0 >"$log" 2>&1 &
    SERVER_PID=$!
    TOKEN_FILE=$data/admin.token
    local deadline=$((SECONDS + 30))
    until line=$(grep -aoE 'listening on (http://)?127\.0\.0\.1:[0-9]+' "$log" | head -n 1) &&
        [ -n "$line" ] && [ -s "$TOKEN_FILE" ]; do
        if ! kill -0 "$SERVER_PID" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
            cat "$log" >&2
            fail "the server did not start"
        fi
        sleep 0.1
    done
    ADDRESS=http://127.0.0.1:${line##*:}
    export ADDRESS TOKEN_FILE SERVER_PID
}

# start_contained IMAGE DATA_DIR NODE: the same in a container of the engine, over
# its socket, with the data in a directory of the host; sets SERVER_CONTAINER in
# place of SERVER_PID.
start_contained() {
    local image=$1 data=$2 node=$3 socket=${DOCKER_HOST:-unix:///var/run/docker.sock} body port
    case $socket in unix://*) socket=${socket#unix://} ;; *) fail "$socket is no socket" ;; esac
    mkdir -p "$data"
    body=$(IMAGE=$image DATA=$data NODE=$node SOCKET=$socket python3 -c '
import json, os
e = os.environ
print(json.dumps({
    "Image": e["IMAGE"],
    "Env": ["CONTAINER_SVC_NETWORK=" + e["NODE"], "OB_NODE_ID=" + e["NODE"]] +
        [k + "=" + v for k, v in e.items() if k.startswith("CONTAINER_SVC_") and k.endswith("_ROOTS")],
    "HostConfig": {
        "Binds": [e["SOCKET"] + ":/var/run/docker.sock", e["DATA"] + ":/var/lib/container-svc"],
        "PortBindings": {"11337/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
    },
}))')
    SERVER_CONTAINER=$(engine_curl "/containers/create?name=$node-server" -X POST \
        -H 'Content-Type: application/json' --data "$body" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["Id"])')
    engine_curl "/containers/$SERVER_CONTAINER/start" -X POST -o /dev/null
    TOKEN_FILE=$data/admin.token
    local deadline=$((SECONDS + 30))
    until [ -s "$TOKEN_FILE" ]; do
        [ $SECONDS -lt $deadline ] || fail "the server did not start:
$(engine_curl "/containers/$SERVER_CONTAINER/logs?stderr=1" | tr -cd '[:print:]\n')"
        sleep 0.1
    done
    port=$(engine_curl "/containers/$SERVER_CONTAINER/json" | python3 -c '
import json, sys
ports = json.load(sys.stdin)["NetworkSettings"]["Ports"]
print(ports["11337/tcp"][0]["HostPort"])')
    ADDRESS=http://127.0.0.1:$port
    export ADDRESS TOKEN_FILE SERVER_CONTAINER
}

stop_server() {
    if [ -n "${SERVER_CONTAINER:-}" ]; then
        engine_curl "/containers/$SERVER_CONTAINER/stop?t=15" -X POST -o /dev/null || true
        engine_curl "/containers/$SERVER_CONTAINER?force=1&v=1" -X DELETE -o /dev/null || true
        SERVER_CONTAINER=
    fi
    [ -n "${SERVER_PID:-}" ] || return 0
    kill "$SERVER_PID" 2>/dev/null || true
    local deadline=$((SECONDS + 15))
    while kill -0 "$SERVER_PID" 2>/dev/null && [ $SECONDS -lt $deadline ]; do sleep 0.1; done
    kill -KILL "$SERVER_PID" 2>/dev/null || true
    wait "$SERVER_PID" 2>/dev/null || true
    SERVER_PID=
}

# remove_made NODE: removes the containers, volumes and the network of a server whose
# node has that name, by their labels, and no others.
remove_made() {
    local label="filters=%7B%22label%22%3A%5B%22container-svc.node%3D$1%22%5D%7D"
    engine_curl "/containers/json?all=1&$label" |
        python3 -c 'import json, sys; [print(it["Id"]) for it in json.load(sys.stdin)]' |
        while read -r id; do
            engine_curl "/containers/$id?force=1&v=1" -X DELETE -o /dev/null || true
        done
    engine_curl "/volumes?$label" |
        python3 -c 'import json, sys; [print(it["Name"]) for it in json.load(sys.stdin)["Volumes"] or []]' |
        while read -r name; do
            engine_curl "/volumes/$name" -X DELETE -o /dev/null || true
        done
    engine_curl "/networks/$1" -X DELETE -o /dev/null || true
}

# The release binary; the first build shows how far it is.
build_release() {
    if [ -x "${CARGO_TARGET_DIR:-$ROOT/target}/release/container-svc" ]; then
        cargo build --release --quiet
    else
        say "building the release binary; the first time takes some minutes"
        cargo build --release
    fi
}
