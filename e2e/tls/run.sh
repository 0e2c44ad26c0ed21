#!/bin/sh
# Runs a command as a user of HTTPS would: `dormouse env --tls` points the clients, and a running server's DNS responder resolves names
# (in a mount namespace with a resolv.conf of its own, so that nothing of the host changes). Root only.
#
# Usage: run.sh DORMOUSE DATA_DIR COMMAND...
set -eu
dormouse=$1 data=$2
shift 2
variables=$("$dormouse" env --tls --data-dir "$data")
eval "$variables"
dns=$(sed -n 's/.*"dns":"\([0-9.]*\):53".*/\1/p' "$data/run/server.json")
[ -n "$dns" ] || { echo "the server has no --dns-listen on port 53" >&2; exit 1; }
resolver=$(mktemp)
trap 'rm -f "$resolver"' EXIT
echo "nameserver $dns" > "$resolver"
export E2E_SERVER_ADDRESS="$dns"
unshare --mount sh -c 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"' sh "$resolver" "$@"
