#!/bin/sh
# Runs in the client's pod: searches and writes twice a second, and notes what became of each.
#
# Usage: watch.sh start PREFIX   begins; the ids of what is written begin with PREFIX
#        watch.sh stop           ends, and prints: searches that found and that failed, writes that were acknowledged and
#                                that were not, and pictures that were acknowledged and are not there; why, as errors
set -eu
folder=${WATCH_FOLDER:-/tmp/watch} pictures=${PICTURES:-/tmp/ours}

searches() {
    while [ ! -e "$folder/stop" ]; do
        if omma --timeout 5s search "$1" --collection try --consistency any > "$folder/searched" 2>&1
        then echo found; else echo "failed: $(tail -1 "$folder/searched")"; fi >> "$folder/searches"
        sleep 0.5
    done
    touch "$folder/searches.end"
}

writes() {
    number=0
    while [ ! -e "$folder/stop" ]; do
        number=$((number + 1))
        id=$2-$number.${1##*.}
        cp "$1" "$folder/new/$id"
        if omma index "$folder/new" --collection try-writes > "$folder/wrote" 2>&1
        then echo "$id" >> "$folder/acknowledged"; else echo "failed: $(tail -1 "$folder/wrote")" >> "$folder/refused"; fi
        rm "$folder/new/$id"
        sleep 0.5
    done
    touch "$folder/writes.end"
}

case $1 in
    start)
        rm -rf "$folder"
        mkdir -p "$folder/new"
        touch "$folder/searches" "$folder/acknowledged" "$folder/refused"
        picture=$(find "$pictures/" -name '*.jpg' -o -name '*.jpeg' -o -name '*.png' -o -name '*.webp' | sort | head -1)
        [ -n "$picture" ] || { echo "no picture in $pictures" >&2; exit 1; }
        # Subshells: a function in the background keeps the streams that it is redirected from, and `kubectl exec` waits.
        (searches "$picture") > /dev/null 2>&1 &
        (writes "$picture" "$2") > /dev/null 2>&1 &
        ;;
    stop)
        touch "$folder/stop"
        for _ in $(seq 60); do
            if [ -e "$folder/searches.end" ] && [ -e "$folder/writes.end" ]; then break; fi
            sleep 1
        done
        grep -h '^failed' "$folder/searches" "$folder/refused" | sort | uniq -c | sort -rn | head -5 >&2 || true
        # As many at a time as one call may ask for; an answer that does not come counts as none.
        xargs -r -n 100 omma --json get --collection try-writes < "$folder/acknowledged" > "$folder/there" || true
        there=$(jq -s '[.[].images[].id] | unique | length' "$folder/there")
        acknowledged=$(wc -l < "$folder/acknowledged")
        echo "$(grep -c '^found' "$folder/searches") $(grep -c '^failed' "$folder/searches")" \
            "$acknowledged $(wc -l < "$folder/refused") $((acknowledged - there))"
        ;;
esac
