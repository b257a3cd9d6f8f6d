#!/bin/sh
# Moves everything off the shard pods whose ordinal is at least REPLICAS, the last one first. PODS is what their names
# begin with. A pod that holds nothing any more is passed over.
set -eu
omma --json status |
    jq -r --arg pods "$PODS" --argjson replicas "$REPLICAS" '
        .nodes[]
        | select(.state != "drained")
        | .ordinal = (.address | capture("^" + $pods + "-(?<n>[0-9]+)[.]").n | tonumber)
        | select(.ordinal >= $replicas)
        | "\(.ordinal) \(.address)"' |
    sort -rn > /tmp/nodes
while read -r ordinal address; do
    echo "draining $PODS-$ordinal ($address)"
    # Not the list of what is left to do.
    omma cluster drain "$address" < /dev/null
done < /tmp/nodes
echo "drained: $(wc -l < /tmp/nodes)"
