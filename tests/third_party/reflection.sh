#!/usr/bin/env bash
# grpcurl knows no proto of ours: reflection tells it all.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../scripts/lib.sh"
AT=${ADDRESS#http://}

call() { "$TOOLS/bin/grpcurl" -plaintext -max-time 20 -H "authorization: Bearer $TOKEN" "$@"; }
bare() { "$TOOLS/bin/grpcurl" -plaintext -max-time 20 "$@"; }
has() { case $2 in *"$3"*) ;; *) fail "$1 lacks '$3': $2" ;; esac; }

services=$(bare "$AT" list)
for service in ContainerService ImageService NodeService TokenService; do
    has "the list" "$services" "containersvc.v1.$service"
done
has "the list" "$services" grpc.health.v1.Health
# grpcurl takes v1 where it is there; so each version is asked by its name too.
for version in v1 v1alpha; do
    has "the list" "$services" "grpc.reflection.$version.ServerReflection"
    answer=$(bare -d '{"list_services":""}' "$AT" \
        "grpc.reflection.$version.ServerReflection/ServerReflectionInfo")
    has "reflection $version" "$answer" containersvc.v1.ContainerService
done
has "the description" "$(bare "$AT" describe containersvc.v1.ContainerService)" "rpc RunContainer"
has "the message" "$(bare "$AT" describe containersvc.v1.RunContainerRequest)" "string image = 1"
has "health" "$(bare "$AT" grpc.health.v1.Health/Check)" SERVING
has "the daemon" "$(call "$AT" containersvc.v1.NodeService/GetDaemonInfo)" '"available": true'
if answer=$(bare "$AT" containersvc.v1.NodeService/GetNode 2>&1); then
    fail "GetNode answers without a token: $answer"
fi
has "the refusal" "$answer" Unauthenticated
