#!/bin/sh
# Drains or undrains the shard pods with ordinals from FROM to below BELOW, the last one first. ACTION is drain or
# undrain, PODS what the pods' names begin with. A pod that is in that state already is passed over.
set -eu
omma --json status |
    jq -r --arg pods "$PODS" --argjson from "$FROM" --argjson below "$BELOW" --arg action "$ACTION" '
        .nodes[]
        | select((.state == "drained") == ($action == "undrain"))
        | .ordinal = (.address | capture("^" + $pods + "-(?<n>[0-9]+)[.]").n | tonumber)
        | select(.ordinal >= $from and .ordinal < $below)
        | "\(.ordinal) \(.address)"' |
    sort -rn > /tmp/nodes
while read -r ordinal address; do
    echo "$ACTION $PODS-$ordinal ($address)"
    # Not the list of what is left to do.
    omma cluster "$ACTION" "$address" < /dev/null
done < /tmp/nodes
echo "$ACTION: $(wc -l < /tmp/nodes) done"
