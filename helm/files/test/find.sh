#!/bin/sh
# Puts the pictures of /pictures into a collection of their own, and finds one of them by itself.
set -eu
collection=helm-test-$(date +%s)
trap 'omma collection delete "$collection" > /dev/null' EXIT

omma index /pictures --collection "$collection"
found=$(omma --json search /pictures/rings.png --collection "$collection" -k 1 | jq -r '.hits[0].id')
if [ "$found" != rings.png ]; then
    echo "looked for rings.png, found $found" >&2
    exit 1
fi
echo "found $found"
