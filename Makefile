# Everything runs in .venv, where the checkout is installed as it is (pip's editable install): an edit needs no build.
# WHEEL=1 installs a wheel in its place, as CI does. Needs Python 3.11 or later and make; nothing is compiled.
#
#   make demo    train on handwritten digits, gradients summed by an emulated switch
#   make test    ruff, mypy and every test
#   make test-torch   PyTorch's own tests of a backend, over gloo and switchml side by side
#   make test-clients  small trainings under Lightning, Accelerate, transformers, DeepSpeed and Ray; installs gigabytes
#   make bench   the benchmark table of docs/benchmarks.md
#   make fuzz    inputs of any kind for SECONDS (60): P4 programs, packet scripts, pcap files, packets to both pipelines, control
#                and P4Runtime messages; SEED=n for others. Guided by what code they reach where there is a wheel of atheris
#   make docs    what is made from the code's tables, in docs/ and p4/include/
#   make dist    what is published: source archive and wheel, checked, the same bytes each time
#   make site    the documentation as a site, build/site/html; a warning is an error

PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

VENV := .venv
CLIENTS := .venv-clients
BIN := $(CURDIR)/$(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PACKAGE := $(VENV)/.$(if $(WHEEL),wheel,editable)

TEST_ARGS ?=
# Many tests wait, so there are more of them at once than processors; 0: one after another, in pytest's own process.
TEST_JOBS ?= $(shell echo $$(( $$(nproc) * 2 )))
TORCH_ARGS ?=
BENCH_ARGS ?= allreduce --workers 2,4 --sizes 4K:16M:64 --baseline gloo --check

define install
	$(PIP) install --only-binary :all: --no-build-isolation -c constraints.txt -e '.[$(1)]'
	touch $@
endef

.PHONY: demo test test-torch test-clients lint types types-and-loops pytest fuzz bench protos docs site dist clean
.DELETE_ON_ERROR:

demo: $(VENV)/.examples $(PACKAGE)
	$(BIN)/switchml run -n 4 -- examples/digits.py --backend switchml --model both

test: lint types-and-loops pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# Mypy has one processor; on another the loops are compiled meanwhile, which the tests would begin with.
types-and-loops: $(VENV)/.dev $(PACKAGE)
	$(BIN)/python -P tests/shared/compile_loops.py & loops=$$!; \
		$(BIN)/mypy; types=$$?; wait $$loops && exit $$types

pytest: $(VENV)/.dev $(PACKAGE)
	$(if $(WHEEL),SWITCHML_TEST_INSTALLED=1) $(BIN)/pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder $(TEST_ARGS)

# Each input has a seed of its own: SEED times 10^9, and its number. A failure shows the input. The tests share the time.
SECONDS ?= 60
SEED ?= 0

fuzz: $(VENV)/.dev $(PACKAGE)
	SWITCHML_FUZZ_SECONDS=$(SECONDS) SWITCHML_FUZZ_SEED=$(SEED) \
		timeout $$(( $(SECONDS) * 3 + 300 )) $(BIN)/pytest tests/fuzz -s -q -o timeout=0 $(TEST_ARGS)

# World sizes 2, 3 and 4; TORCH_ARGS="--world-sizes 2 --json" and others: tests/pytorch_suite/run.py --help.
test-torch: $(VENV)/.dev $(PACKAGE)
	$(BIN)/python tests/pytorch_suite/run.py $(TORCH_ARGS)

# In an environment of its own: the engines are large. DeepSpeed comes as source and looks at torch while it is built.
test-clients:
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install -c constraints.txt setuptools torch wheel
	DS_BUILD_OPS=0 $(CLIENTS)/bin/pip install -c constraints.txt --no-build-isolation \
		-e '.[bench,clients,examples]' hypothesis pytest pytest-timeout
	$(CLIENTS)/bin/pytest tests/clients tests/cluster tests/torch_cuda tests/torch_hooks $(TEST_ARGS)

bench: $(VENV)/.dev $(PACKAGE)
	$(BIN)/switchml bench $(BENCH_ARGS)

docs: $(VENV)/.dev $(PACKAGE)
	$(BIN)/python -m switchml.protocol.format_table docs/protocol.md
	$(BIN)/python -m switchml.protocol.p4_include p4/include/switchml_header.p4
	$(BIN)/python -m switchml.packets.dissector scripts/wireshark/switchml.lua
	$(BIN)/python -m switchml.torch_backend.routing docs/torch.md
	$(BIN)/python -m switchml.variables docs/settings.md
	$(BIN)/python -m switchml.telemetry.event_table docs/telemetry.md
	$(BIN)/python scripts/site/pictures.py docs/pictures

site: $(VENV)/.dev $(PACKAGE)
	$(BIN)/python scripts/site/build_site.py build/site

# In an environment of its own, the checks bring much. A release is made of a clean checkout, with DIST_ARGS=--release.
DIST_ARGS ?=

dist: $(VENV)/bin/python
	test -x build/release/bin/python || $(BIN)/python -m venv build/release
	build/release/bin/pip install --quiet -c constraints.txt check-wheel-contents setuptools twine
	PYTHONPATH=. build/release/bin/python scripts/release/make_dist.py dist $(DIST_ARGS)

# The generator is an old one on purpose, in an environment of its own: see the head of switch.proto. P4Runtime's comes without
# its .proto files, so its stubs are made from the descriptors in its modules, which only protobuf in plain Python still takes.
PROTOC = PATH="$(CURDIR)/build/protoc/bin:$$PATH" build/protoc/bin/python -m grpc_tools.protoc
P4PROTOS := p4/config/v1/p4types p4/config/v1/p4info p4/v1/p4data p4/v1/p4runtime

protos: $(VENV)/bin/python
	$(BIN)/python -m venv build/protoc
	build/protoc/bin/pip install --quiet grpcio-tools==1.49.1 mypy-protobuf==3.4.0 p4runtime==1.6.0 'setuptools<81'
	$(PROTOC) -I . --python_out=. --mypy_out=. --grpc_python_out=. --mypy_grpc_out=. switchml/control/*.proto
	PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=python build/protoc/bin/python scripts/p4runtime_descriptors.py build/p4.protoset
	$(PROTOC) --descriptor_set_in=build/p4.protoset --python_out=build --mypy_out=build $(P4PROTOS:=.proto)
	$(PROTOC) --descriptor_set_in=build/p4.protoset --grpc_python_out=build --mypy_grpc_out=build p4/v1/p4runtime.proto
	for stub in $(P4PROTOS:%=build/%_pb2*.py*); do \
		sed -E 's/^from p4\.(config\.)?v1 import/from switchml.p4runtime import/; s/\bp4\.(config\.)?v1\.(p4[a-z]+_pb2)/switchml.p4runtime.\2/g' \
			$$stub > switchml/p4runtime/$${stub##*/}; \
	done

clean:
	rm -rf $(VENV) $(CLIENTS) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or later found. Install one, or: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.build-tools: constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --only-binary :all: -c constraints.txt setuptools
	touch $@

# What the demo needs, then what the tests need on top.
$(VENV)/.examples: pyproject.toml constraints.txt | $(VENV)/.build-tools
	$(call install,examples)
$(VENV)/.dev: $(VENV)/.examples
	$(call install,dev)

# Machine code that was kept beside a wheel's modules outlives them, and would be taken for the package.
$(VENV)/.editable: $(VENV)/.examples
	$(if $(wildcard $(VENV)/.wheel),rm -r $(VENV)/.wheel $(VENV)/lib/python*/site-packages/switchml && $(PIP) install --quiet --no-build-isolation --no-deps --no-index -e .)
	touch $@

# A fresh build folder each time: setuptools would keep modules that no longer exist.
$(VENV)/.wheel: $(VENV)/.examples FORCE
	rm -rf build/lib build/wheel $(VENV)/.editable
	$(PIP) wheel --quiet --no-build-isolation --no-deps --no-index -w build/wheel .
	$(PIP) install --quiet --force-reinstall --no-deps --no-index build/wheel/*.whl
	touch $@

.PHONY: FORCE
