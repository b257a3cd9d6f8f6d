#!/bin/sh
# Drains or undrains the shard pods with ordinals from FROM to below BELOW, the last one first. ACTION is drain or
# undrain, PODS what the pods' names begin with. A pod that is in that state already is passed over.
#
# Whatever fails, fails the job: a pod that goes undrained takes its data along. So no step hides in a pipe.
set -eu
work=${WORK:-/tmp}
omma --json status > "$work/status"
jq -r --arg pods "$PODS" --argjson from "$FROM" --argjson below "$BELOW" --arg action "$ACTION" '
    [.nodes[] | .ordinal = (.address | capture("^" + $pods + "-(?<n>[0-9]+)[.]").n | tonumber)]
    | if length == 0 then error("no shard node has the address of a pod of " + $pods) else .[] end
    | select((.state == "drained") == ($action == "undrain"))
    | select(.ordinal >= $from and .ordinal < $below)
    | "\(.ordinal) \(.address)"' "$work/status" > "$work/unsorted"
sort -rn "$work/unsorted" > "$work/nodes"
while read -r ordinal address; do
    echo "$ACTION $PODS-$ordinal ($address)"
    # Not the list of what is left to do.
    omma cluster "$ACTION" "$address" < /dev/null
done < "$work/nodes"
echo "$ACTION: $(wc -l < "$work/nodes") done"
