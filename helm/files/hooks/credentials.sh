#!/bin/sh
# Makes the secrets of a release that are missing: an authority, certificates by it, API keys. What is there stays as it
# is: delete a secret and run `helm upgrade` to have it made anew.
#
# Environment: NAMESPACE and NAME, MAKE_TLS and MAKE_KEYS (true or false), and the names in the certificates, separated by
# spaces: PUBLIC_NAMES, COORDINATOR_NAMES, SHARD_NAMES.
set -eu
umask 077
cd "${WORK:-/tmp}"
api=https://kubernetes.default.svc/api/v1/namespaces/$NAMESPACE/secrets
account=/var/run/secrets/kubernetes.io/serviceaccount
days=3650

# METHOD URL [FLAGS]: prints the status, leaves the answer in ./answer.
call() {
    method=$1 url=$2
    shift 2
    curl --silent --show-error --max-time 30 --retry 5 --retry-all-errors --cacert "$account/ca.crt" \
        --header "Authorization: Bearer $(cat "$account/token")" --header 'Content-Type: application/json' \
        --request "$method" --output answer --write-out '%{http_code}' "$@" "$url"
}

# SECRET: whether it is there; its content is then in ./answer.
present() {
    status=$(call GET "$api/$1")
    case $status in
        200) return 0 ;;
        404) return 1 ;;
        *) echo "asking for secret $1: status $status: $(cat answer)" >&2; exit 1 ;;
    esac
}

# SECRET TYPE KEY=FILE…: makes it; somebody else may have been faster.
# shellcheck disable=SC2153
store() {
    name=$1 type=$2
    shift 2
    data='{}'
    for pair in "$@"; do
        data=$(printf '%s' "$data" | jq --arg key "${pair%%=*}" --rawfile value "${pair#*=}" \
            '.[$key] = ($value | @base64)')
    done
    printf '%s' "$data" | jq --arg name "$name" --arg type "$type" --arg of "$NAME" '{
        apiVersion: "v1", kind: "Secret", type: $type, data: .,
        metadata: {name: $name, labels: {"app.kubernetes.io/name": "omma", "app.kubernetes.io/part-of": $of}}
    }' > secret.json
    status=$(call POST "$api" --data-binary @secret.json)
    case $status in
        201) echo "made secret $name" ;;
        409) echo "secret $name was made by somebody else" ;;
        *) echo "making secret $name: status $status: $(cat answer)" >&2; exit 1 ;;
    esac
}

new_key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"
}

# Leaves the authority in ca.crt and ca.key.
authority() {
    if ! present "$NAME-tls-ca"; then
        new_key ca.key
        printf '[req]\ndistinguished_name = dn\n[dn]\n[ca]\nbasicConstraints = critical, CA:TRUE, pathlen:0\n%s\n' \
            'keyUsage = critical, keyCertSign, cRLSign' > ca.cnf
        openssl req -x509 -new -key ca.key -sha256 -days "$days" -subj '/CN=Omma authority' -config ca.cnf \
            -extensions ca -out ca.crt
        store "$NAME-tls-ca" Opaque ca.crt=ca.crt ca.key=ca.key
        present "$NAME-tls-ca"
    fi
    jq -j '.data["ca.crt"] | @base64d' answer > ca.crt
    jq -j '.data["ca.key"] | @base64d' answer > ca.key
}

# PART ROLE NAMES…: a certificate for public, coordinator or shard; the role of a peer is a URI in it.
certificate() {
    part=$1 role=$2
    shift 2
    secret=$NAME-tls-$part
    if present "$secret"; then
        echo "secret $secret is there"
        return
    fi
    names=$role
    for name in "$@"; do
        names=${names:+$names,}DNS:$name
    done
    new_key tls.key
    printf 'subjectAltName = %s\nkeyUsage = critical, digitalSignature\nextendedKeyUsage = %s\nbasicConstraints = %s\n' \
        "$names" 'serverAuth, clientAuth' 'critical, CA:FALSE' > leaf.cnf
    openssl req -new -key tls.key -subj "/CN=Omma $part" -out leaf.csr
    openssl x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -set_serial "0x$(openssl rand -hex 16)" -sha256 \
        -days "$days" -extfile leaf.cnf -out tls.crt 2> /dev/null
    store "$secret" kubernetes.io/tls tls.crt=tls.crt tls.key=tls.key ca.crt=ca.crt
}

if [ "$MAKE_TLS" = true ]; then
    authority
    # Names are words without spaces or patterns that a shell would expand: DNS names, at most with a leading star.
    set -f
    # shellcheck disable=SC2086
    certificate public '' $PUBLIC_NAMES
    # shellcheck disable=SC2086
    certificate coordinator URI:omma://coordinator $COORDINATOR_NAMES
    # shellcheck disable=SC2086
    certificate shard URI:omma://shard $SHARD_NAMES
    set +f
fi

# The keys' file has hashes; the key that the release's own hooks and tests use, and its owner begins with, is beside it.
if [ "$MAKE_KEYS" = true ]; then
    if present "$NAME-api-keys"; then
        echo "secret $NAME-api-keys is there"
    else
        omma --json keys new admin --roles read,write,admin --collections '*' > made.json
        jq -r .line made.json > "keys"
        jq -j .key made.json > "admin"
        store "$NAME-api-keys" Opaque keys=keys admin=admin
    fi
fi
