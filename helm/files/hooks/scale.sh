#!/bin/sh
# Drains or undrains shard pods with ordinals below BELOW, the last one first. ACTION is drain or undrain, PODS what the pods'
# names begin with. Drains from FROM on; undrains from the ordinal on that the file NOTE has, where there is one: those that an
# upgrade or rollback has drained. A pod that is in that state already is passed over.
#
# Whatever fails, fails the job: a pod that goes undrained takes its data along. So no step hides in a pipe.
set -eu
work=${WORK:-/tmp}
if [ "$ACTION" = undrain ]; then
    FROM=$BELOW
    [ ! -e "$NOTE" ] || FROM=$(cat "$NOTE")
    case $FROM in
        '' | *[!0-9]*) echo "undrain: $NOTE says \"$FROM\", which is no ordinal" >&2; exit 1 ;;
    esac
    [ "$FROM" -lt "$BELOW" ] || { echo "undrain: no pod has come back"; exit 0; }
fi
omma --json status > "$work/status"
jq -r --arg pods "$PODS" --argjson from "$FROM" --argjson below "$BELOW" --arg action "$ACTION" '
    [.nodes[] | select(.state != "replaced")
        | .ordinal = (.address | capture("^" + $pods + "-(?<n>[0-9]+)[.]").n | tonumber)]
    | if length == 0 then error("no shard node has the address of a pod of " + $pods) else .[] end
    | select(if $action == "drain" then .state != "drained" else .state == "drained" or .state == "draining" end)
    | select(.ordinal >= $from and .ordinal < $below)
    | "\(.ordinal) \(.address)"' "$work/status" > "$work/unsorted"
sort -rn "$work/unsorted" > "$work/nodes"
while read -r ordinal address; do
    echo "$ACTION $PODS-$ordinal ($address)"
    # Not the list of what is left to do.
    omma cluster "$ACTION" "$address" < /dev/null
done < "$work/nodes"
echo "$ACTION: $(wc -l < "$work/nodes") done"
