#!/bin/sh
# What deploy/rehearse.sh runs inside an image, as its user: is the root read-only, is the image
# complete, and does it label?   try-image.sh cpu|cuda|edge
set -eu
cd /var/lib/secondlook

fail() { echo "try-image: $*" >&2 && exit 1; }
# answers COMMAND…: within two minutes it succeeds.
answers() {
    for _ in $(seq 120); do
        if "$@" 2>/dev/null; then return; fi
        sleep 1
    done
    fail "no answer: $*"
}

test "$(id -u)" = 10001 || fail "not the image's user"
if touch /opt/secondlook/written 2>/dev/null; then fail "the root can be written to"; fi
secondlook --version
secondlook-edge --version
python3 - <<'CHECK'
import json
found = json.load(open("/opt/secondlook/sbom.json"))["components"]
assert {"numpy", "grpcio", "secondlook"} <= {one["name"] for one in found}, "the SBOM lacks packages"
CHECK
secondlook world --count 2 --out scenes
if [ "$1" = edge ]; then
    if python3 -c "import torch" 2>/dev/null; then fail "there is torch"; fi
    secondlook-edge once /opt/red.png --student /opt/student | grep "1 found"
    SECONDLOOK_EDGE_HEALTH_PORT=9477 secondlook-edge run --student /opt/student --follow \
        --source scenes/images --quiet &
    answers python3 -c \
        "import urllib.request as u; u.urlopen('http://127.0.0.1:9477/health', timeout=4)"
else
    secondlook label scenes/images --ontology scenes/ontology.yaml --out labels
    secondlook serve --data data >/dev/null 2>serve.log &
    answers secondlook health
fi
kill $!
wait $! || true
