#!/bin/sh
# What compose.yaml reads from secrets/: random passwords, and a certificate of an authority of its
# own for the names given.   deploy/make-secrets.sh [NAME…]
#
# What exists stays as it is. Containers run as users of their own and must be able to read the
# files; the folder keeps other users of this machine out.
set -eu
umask 077
FOLDER=${FOLDER:-$(dirname "$0")/secrets}
mkdir -p "$FOLDER"
cd "$FOLDER"

for name in database_password s3_secret grafana_password; do
    test -s "$name" || openssl rand -hex 24 >"$name"
done
test -s s3.json || cat >s3.json <<JSON
{"identities": [{"name": "secondlook", "actions": ["Admin", "Read", "List", "Tagging", "Write"],
  "credentials": [{"accessKey": "secondlook", "secretKey": "$(cat s3_secret)"}]}]}
JSON
test -f metrics_token || : >metrics_token # see docs/deploy.md

if ! test -s tls.crt; then
    names="DNS:secondlook,DNS:localhost,IP:127.0.0.1"
    for name in "$@"; do names="$names,DNS:$name"; done
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
        -subj "/CN=secondlook authority" -keyout ca.key -out ca.crt \
        -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 397 \
        -subj "/CN=secondlook" -CA ca.crt -CAkey ca.key -keyout tls.key -out tls.crt \
        -addext "basicConstraints=critical,CA:FALSE" -addext "subjectAltName=$names" \
        -addext "extendedKeyUsage=serverAuth"
fi
chmod 644 ./*
chmod 600 ca.key
