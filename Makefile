# Two commands to know: `make demo` and `make test`. Each sets up what it needs in .venv first.
PYTHON ?= python3
BIN := .venv/bin
# More threads than cores makes small models crawl; the tests run one.
export OMP_NUM_THREADS ?= 2
export HF_HUB_OFFLINE ?= 1
# Tests wait for servers half of the time: two files at once, the long ones (testpaths) first.
WORKERS ?= 2
# What this repository's own environments have of pyproject.toml's extras, beside its group dev.
EXTRAS := serve,postgres,s3,parquet,evaluate,ollama,openai,recipes,distill,edge,video,tracks,efficientnet-lite,tracing,ray,oidc,signing
comma := ,

.PHONY: demo overview test lint unit attack test-lowest test-newest golden bench peers rehearse-images stubs docs lock clean

demo: .venv/.ready
	$(BIN)/secondlook demo --out demo-out

# The README's picture, which the demo draws.
overview: demo
	$(BIN)/python -c "from PIL import Image; sheet = Image.open('demo-out/overview.png'); \
	    sheet.thumbnail((1200, 1200)); sheet.save('docs/overview.jpg', quality=84)"

test: lint unit

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint protos
	$(BIN)/python protos/generate.py --check

unit: .venv/.ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=40 --durations-min=3

# The attacks of tests/attack with a million inputs; about half an hour.
INPUTS ?= 1000000
attack: .venv/.ready
	OMP_NUM_THREADS=1 SECONDLOOK_ATTACK_INPUTS=$(INPUTS) $(BIN)/pytest -q -s tests/attack

# The unit tests on the lowest and on the newest versions that pyproject.toml's ranges allow, each
# in an environment of its own. TESTS names fewer.
TESTS ?= tests/unit
test-lowest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-lowest test-newest: test-%: .venv/.ready
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venv-$*
	$(BIN)/uv pip install --quiet --python .venv-$* --resolution $(RESOLUTION) --upgrade \
	  --editable '.[$(EXTRAS)]' --group dev
	OMP_NUM_THREADS=1 .venv-$*/bin/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTS)

# The golden scenario by the Python, Go and TypeScript clients, with Go and Node of our own where the
# machine has none.
golden: .venv/.ready
	$(BIN)/python clients/other_languages.py
	GOLDEN="python go ts" OMP_NUM_THREADS=1 $(BIN)/pytest -q tests/golden

bench: .venv/.ready
	$(BIN)/python -m bench

# PEERS names fewer.
peers: .venv/.ready
	$(BIN)/python tests/peers/run.py $(PEERS)

# What the images hold, built and tried in plain Debian folders by the steps of deploy/Dockerfile; as
# root, half an hour. TARGETS names others.
TARGETS ?= edge cuda
rehearse-images: .venv/.ready
	deploy/rehearse.sh $(TARGETS)

stubs: .venv/.ready
	$(BIN)/python protos/generate.py

# The documentation: the pages that follow from the code, and the site of all in .cache/site.
docs: .venv/.ready
	$(BIN)/python docs/generate.py
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venv-docs
	$(BIN)/uv pip install --quiet --python .venv-docs --group docs
	.venv-docs/bin/mkdocs build --strict --quiet

SERVER_EXTRAS := serve postgres s3 parquet ollama openai evaluate distill video tracks tracing oidc signing ray
EDGE_EXTRAS := edge video signing
IMAGE_LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --constraint requirements.lock --no-header --no-annotate --no-emit-index-url --no-emit-find-links

# Keeps the versions it has where pyproject.toml allows them; `make lock UPGRADE=--upgrade` takes the newest.
lock: .venv/.ready
	$(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	  $(addprefix --extra ,$(subst $(comma), ,$(EXTRAS))) --group dev $(UPGRADE) \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links --output-file requirements.lock

# Of each image the part of the lock that it installs, with the same versions; and what builds it.
	$(IMAGE_LOCK) pyproject.toml $(addprefix --extra ,$(SERVER_EXTRAS)) --output-file deploy/locks/server.txt
	$(IMAGE_LOCK) pyproject.toml $(addprefix --extra ,$(EDGE_EXTRAS)) --output-file deploy/locks/edge.txt
	printf 'hatchling\ncyclonedx-bom\n' | $(IMAGE_LOCK) - --output-file deploy/locks/build.txt

# The lock's versions; then our own package, without an index, so that a lock that lacks something is told.
.venv/.ready: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-index --no-build-isolation --editable '.[$(EXTRAS)]' --group dev
	touch $@

clean:
	rm -rf .venv .venv-lowest .venv-newest .venv-docs demo-out .cache
