# The vocabulary of a script that shows the service and checks every step: sourced
# after lib.sh, never run. ADDRESS, TOKEN_FILE and BINARY say whom it speaks to.
# shellcheck shell=bash

step() { printf '\n%s%s%s\n' "$BOLD" "$*" "$PLAIN"; }
ok() { printf '  %s✓%s %s\n' "$GREEN" "$PLAIN" "$*"; }
# show TEXT: at most 300 characters of it.
show() {
    local text=${1:0:300}
    [ "$text" = "$1" ] || text+=…
    printf '  %s\n' "$text"
}
# said WORD...: what is about to be asked.
said() { printf '  %s$ %s%s\n' "$DIM" "$*" "$PLAIN"; }

# field JSON PATH: as in ports.0.host; empty when it is absent.
field() {
    python3 -c '
import json, sys
value = json.loads(sys.argv[1])
for key in sys.argv[2].split("."):
    try:
        value = value[int(key)] if isinstance(value, list) else value[key]
    except (IndexError, KeyError, TypeError):
        value = ""
print(value if isinstance(value, str) else json.dumps(value))' "$1" "$2"
}

# same WHAT ACTUAL EXPECTED
same() {
    [ "$2" = "$3" ] || fail "$1 is '$2', not '$3'"
    ok "$1 is $3"
}
# has WHAT TEXT PART
has() {
    case $2 in *"$3"*) ok "$1 has '$3'" ;; *) fail "$1 lacks '$3': $2" ;; esac
}

# rest METHOD PATH [BODY]: sets STATUS and BODY.
rest() {
    local out
    said "curl -X $1 \$S$2${3:+ -d '$3'}"
    out=$(curl -sS -X "$1" -w '\n%{http_code}' -H "Authorization: Bearer $(cat "$TOKEN_FILE")" \
        -H 'Content-Type: application/json' ${3:+--data "$3"} "$ADDRESS/container-svc$2")
    STATUS=${out##*$'\n'} BODY=${out%$'\n'*}
}
# sse PATH FILE: a stream as server-sent events; sets STREAM, which `end` ends.
sse() {
    said "curl -N -H 'Accept: text/event-stream' \$S$1"
    curl -sSN --max-time 60 -H "Authorization: Bearer $(cat "$TOKEN_FILE")" \
        -H 'Accept: text/event-stream' "$ADDRESS/container-svc$1" >"$2" 2>/dev/null &
    STREAM=$!
}
# client ARGUMENT...: the command line, which speaks gRPC; its answer as JSON in BODY.
client() {
    said "container-svc $*"
    BODY=$(container_svc --json "$@")
}
# follow FILE ARGUMENT...: a command that goes on; sets STREAM, which `end` ends.
follow() {
    said "container-svc ${*:2}"
    # Not by the function, which would be a shell of its own and outlive the kill.
    "$BINARY" --address "$ADDRESS" --token-file "$TOKEN_FILE" "${@:2}" >"$1" 2>&1 &
    STREAM=$!
}
container_svc() { "$BINARY" --address "$ADDRESS" --token-file "$TOKEN_FILE" "$@"; }
end() {
    kill "$STREAM" 2>/dev/null || true
    wait "$STREAM" 2>/dev/null || true
}
# await FILE PART: what another process writes may need a moment.
await() {
    local deadline=$((SECONDS + 30))
    until grep -qs -- "$2" "$1"; do
        [ $SECONDS -lt $deadline ] || fail "no line with $2: $(cat "$1")"
        sleep 0.1
    done
    ok "a line with $2"
}
# page PORT PATH: the container's web server may need a moment.
page() { curl -fsS --retry 40 --retry-delay 1 --retry-all-errors --max-time 5 "http://127.0.0.1:$1$2" 2>/dev/null; }
