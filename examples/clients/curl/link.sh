#!/usr/bin/env bash
# A link's life over HTTP/JSON: followed, put, put again as if the answer had been lost, refused, read, deleted.
#
#     ENDPOINT=http://127.0.0.1:7400 TOKEN=… LATTICE=default bash link.sh
set -euo pipefail

LATTICE_URL=${ENDPOINT:-http://127.0.0.1:7400}/v1/lattices/${LATTICE:-default}
ACTOR=MBCFOPM6JW2APJLXJD3Z5O4CN7CPYJ2B4FTKLJUR5YR5MITIU7HD3WD5
PROVIDER=VDBAXWLT2DO27TIZ4XGJ4NJINMUJ5CTDC3TZ4RFICJXCMRGSQMO6IG6N
CONTRACT=wasmcloud:keyvalue
IDENTITY="actorId=$ACTOR&contractId=$CONTRACT"

# From standard input, so that the list of processes does not show the token.
OPTIONS=(--silent --show-error --config -)
AUTHORIZATION="header = \"authorization: Bearer ${TOKEN:-}\""

call() {
    curl "${OPTIONS[@]}" --max-time 10 "$@" <<< "$AUTHORIZATION"
}

put() {
    call --request PUT "$LATTICE_URL/link-definition" --header 'content-type: application/json' --data "{
        \"linkDefinition\": {\"actorId\": \"$ACTOR\", \"providerId\": \"$1\", \"contractId\": \"$CONTRACT\",
                             \"values\": {\"url\": \"redis://127.0.0.1\"}}${2:-}}"
}

# What an answer must say.
expect() {
    if [[ $1 != *$2* ]]; then
        echo "the gateway told $1, without $2" >&2
        exit 1
    fi
}

# Reads on until the watch tells a line like this.
read_until() {
    local line
    while read -r -t 30 line <&3; do
        if [[ $line == *$1* ]]; then
            return
        fi
    done
    echo "the watch told no $1" >&2
    exit 1
}

WATCHED="$LATTICE_URL:watch?kinds=ENTRY_KIND_LINK_DEFINITION"
exec 3< <(exec curl "${OPTIONS[@]}" --no-buffer --header 'accept: text/event-stream' "$WATCHED" <<< "$AUTHORIZATION")
trap 'kill $!' EXIT
read_until 'event: snapshotComplete'
echo 'watching: what stood before is told'

request_id="curl-$(date +%s)-$$-$RANDOM"
answer=$(put "$PROVIDER" ", \"requestId\": \"$request_id\"")
expect "$answer" '"outcome":"OUTCOME_APPLIED"'
echo 'put: OUTCOME_APPLIED'

# As if the answer had not come: the same id, and for how long it has been under way, or longer.
answer=$(put "$PROVIDER" ", \"requestId\": \"$request_id\", \"retryAge\": \"2s\"")
expect "$answer" '"outcome":"OUTCOME_ALREADY_APPLIED"'
echo 'put again: OUTCOME_ALREADY_APPLIED, nothing is written twice'

answer=$(put "$ACTOR")
expect "$answer" '"reason":"INVALID_FIELD"'
expect "$answer" '"field":"link_definition.provider_id"'
echo "refused: $answer"

answer=$(call "$LATTICE_URL/link-definition?$IDENTITY&consistency.fullyConsistent=true")
expect "$answer" "\"providerId\":\"$PROVIDER\""
answer=$(call "$LATTICE_URL/link-definitions")
expect "$answer" "\"actorId\":\"$ACTOR\""
echo 'listed: the link'

read_until '"put":'
echo 'watched: the put'
answer=$(call --request DELETE "$LATTICE_URL/link-definition?$IDENTITY")
expect "$answer" '"outcome":"OUTCOME_APPLIED"'
read_until '"delete":'
echo 'watched: the delete'
