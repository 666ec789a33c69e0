#!/bin/sh
# The steps by which the images are built: the Dockerfile runs them, and deploy/rehearse.sh runs the
# same in a plain Debian, so that what an image is made of can be tried without Docker.
#
#   install.sh build-tools           Debian packages of the build stage
#   install.sh environment TARGET    /opt/secondlook for TARGET cpu, cuda or edge, with sbom.json
#   install.sh runtime               Debian packages, the user and the folder of the final stage
#   install.sh sbom PYTHON FILE      CycloneDX list of what is installed for PYTHON
#
# Every package comes from deploy/locks with its hash. The one exception are torch and torchvision
# of TARGET cpu: PyPI has them with 4 GB of CUDA libraries only, so their versions are the lock's
# and the files those of PyTorch's own index.
set -eu
cd "$(dirname "$0")/.."
PREFIX=${PREFIX:-/opt/secondlook}
TOOLS=${TOOLS:-/tmp/build-tools}
TORCH_INDEX=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
CUDA_PACKAGES='^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)=='

debian_packages() {
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    rm -rf /var/lib/apt/lists/*
}

tools() {
    test -x "$TOOLS/bin/pip" && return
    python3 -m venv "$TOOLS"
    "$TOOLS/bin/pip" install --quiet --require-hashes --requirement deploy/locks/build.txt
}

install_packages() {
    "$TOOLS/bin/pip" --python "$PREFIX/bin/python" install --quiet --no-deps "$@"
}

install_lock() {
    case $1 in
        cuda | edge) install_packages --require-hashes --requirement "deploy/locks/$2.txt" ;;
        cpu)
            awk -v cuda="$CUDA_PACKAGES" '/^[a-z]/ { kept = $0 !~ cuda } kept' \
                "deploy/locks/$2.txt" >"$TOOLS/cpu.txt"
            install_packages --require-hashes --requirement "$TOOLS/cpu.txt"
            # shellcheck disable=SC2046 # two requirements without spaces
            install_packages --index-url "$TORCH_INDEX" \
                $(awk '/^(torch|torchvision)==/ { print $1 }' "deploy/locks/$2.txt")
            ;;
    esac
}

environment() {
    case $1 in
        cpu | cuda) lock=server ;;
        edge) lock=edge ;;
        *) echo "expected cpu, cuda or edge, got '$1'" >&2 && exit 2 ;;
    esac
    tools
    python3 -m venv --without-pip "$PREFIX"
    install_lock "$1" "$lock"
    "$TOOLS/bin/pip" wheel --quiet --no-deps --no-index --no-build-isolation \
        --wheel-dir "$TOOLS/wheel" .
    install_packages --no-index "$TOOLS"/wheel/secondlook-*.whl
    sbom "$PREFIX/bin/python" "$PREFIX/sbom.json"
}

sbom() {
    tools
    "$TOOLS/bin/cyclonedx-py" environment --output-reproducible --output-file "$2" "$1"
}

runtime() {
    debian_packages python3 ca-certificates
    groupadd --gid 10001 secondlook
    useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/secondlook \
        --shell /usr/sbin/nologin secondlook
    install -d -o secondlook -g secondlook -m 700 /var/lib/secondlook
}

case ${1:-} in
    build-tools) debian_packages python3 python3-venv ca-certificates ;;
    environment) environment "${2:-}" ;;
    runtime) runtime ;;
    sbom) sbom "$2" "$3" ;;
    *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
