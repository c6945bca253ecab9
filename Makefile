# Everything runs in .venv, on the package installed there as a user would have it, not on this
# folder's sources. What is up to date is not made again.

PYTHON ?= python3
# A folder with real data (mnist/*.gz) for the tests that need it; they skip without.
DATA_DIR ?=
# Instruction sets to build beside scalar, separated by semicolons; none: all of the processor's.
SETS ?=
# More arguments for the command behind a target: make test ARGS="python_tests/ops -x"
ARGS ?=
# Processes that share the tests; 0: none beside this one, for a debugger.
WORKERS ?= 2

VENV := .venv
# A worker has a part of the files, and takes some of another's when it is done: what is compiled or
# made once for a file is made once. pytest-benchmark would warn that processes disturb it.
SHARED = -n $(WORKERS) --dist worksteal -p no:benchmark
# What `make docs` documents: the public names are those of these modules.
DOCUMENTED = adadagrad_kernels adadagrad_kernels.ops adadagrad_kernels.optim \
  adadagrad_kernels.criteria adadagrad_kernels.batching adadagrad_kernels.statistics \
  adadagrad_kernels.distributed adadagrad_kernels.integrations \
  adadagrad_kernels.integrations.accelerate adadagrad_kernels.integrations.fabric \
  adadagrad_kernels.integrations.huggingface adadagrad_kernels.integrations.lightning
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# setup.py finds cmake and ninja there.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Container images set it, and each of some hundred processes would compile torch's Python anew.
unexport PYTHONDONTWRITEBYTECODE

NATIVE := CMakeLists.txt setup.py pyproject.toml $(shell find csrc -type f)
BUILD := requirements/build.txt
DEMO := requirements/demo.txt
REQUIREMENTS := $(DEMO) $(addprefix requirements/,development.txt cuda.txt models.txt trainers.txt \
  writers.txt)
# Asks for torchvision and another torch, and needs neither: installed without what it asks for.
PEERS := requirements/peers.txt
SOURCES := $(NATIVE) $(shell find adadagrad_kernels -name __pycache__ -prune -o -print)
HAS_AVX512 := $(shell grep -qw avx512vl /proc/cpuinfo 2>/dev/null && echo yes)
HAS_AVX2 := $(shell grep -qw avx2 /proc/cpuinfo 2>/dev/null && echo yes)
# The widest that this machine runs, or nothing, which stands for all.
WIDEST := $(if $(HAS_AVX512),avx512,$(if $(HAS_AVX2),avx2))
# By its instruction sets: what was built with some of them is not up to date for all.
SANITIZED := build/sanitize/.built-$(or $(subst ;,-,$(SETS)),all)
CXX_FILES := $(shell find csrc gpu_ladder -name '*.cpp' -o -name '*.h' -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## List what there is to make
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
	  printf '  make %-18s %s\n' "$$name" "$$text"; done

.PHONY: demo
demo: install ## Train on real data with every method; a table, a picture and metrics in runs/demo
	$(BIN)/adadagrad-kernels demo --out runs/demo $(ARGS)

.PHONY: test
test: develop ## Run the whole test suite [DATA_DIR=folder with mnist/] [ARGS=...]
	$(BIN)/pytest $(SHARED) $(if $(DATA_DIR),--data-dir="$(DATA_DIR)") $(ARGS)

.PHONY: nightly
nightly: develop ## Run every test, also those that are left to the night (hours) [DATA_DIR=...] [ARGS=...]
	$(BIN)/pytest $(SHARED) $(if $(DATA_DIR),--data-dir="$(DATA_DIR)") -m '' --gpu-cases all $(ARGS)
	ADADAGRAD_KERNELS_ISA=avx2 $(BIN)/pytest $(SHARED) python_tests/optim python_tests/statistics
	$(MAKE) sanitize ARGS="python_tests/ops $(SHARED) --ways cpu,cuda-sanitized -m 'not large'"

.PHONY: docs
docs: develop ## Make build/docs, every public name with its docstring; write the tables of docs/ from the code
	$(BIN)/python .ci/write_tables.py
	PYTHONWARNINGS=ignore $(BIN)/pdoc --docformat google --math --no-show-source -o build/docs $(DOCUMENTED)
	@echo "written: build/docs/index.html"

.PHONY: lint
lint: environment ## Check style and formatting of Python and C++
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

.PHONY: format
format: environment ## Format Python and C++
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

.PHONY: typecheck
typecheck: environment ## Check types with mypy --strict
	$(BIN)/mypy $(ARGS)

.PHONY: bench
bench: develop ## Benchmark every op with pytest-benchmark [ARGS="-k batch_moments"]
	$(BIN)/pytest benchmarks --benchmark-only $(ARGS)

.PHONY: limits
limits: develop ## Measure every op against its goal, in one run: a table and benchmarks/results/
	$(BIN)/python benchmarks limits $(ARGS)

.PHONY: reproduce
reproduce: develop ## Run the papers' experiments, three hours on two cores; write docs/reference/reproduction.md [DATA_DIR=folder] [ARGS=...]
	$(BIN)/python benchmarks/reproduce $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(ARGS)

# -B: bytecode beside the sources, which it imports, would make the installed package out of date.
.PHONY: gpu-static
gpu-static: environment ## Compile every GPU kernel for every architecture; write docs/internals/gpu_kernels.md, or --check it
	$(BIN)/python -B -m gpu_ladder.static $(ARGS)

.PHONY: gpu-nightly
gpu-nightly: develop ## Check and run every GPU kernel in every case, on every rung and architecture (an hour)
	$(BIN)/python -B -m gpu_ladder.static --check
	$(BIN)/pytest $(SHARED) python_tests/ops gpu_ladder/tests -m '' --gpu-cases all $(ARGS)

.PHONY: gpu-report
gpu-report: ## On a machine with a GPU: build with what is there, test, measure, report [ARGS="--out DIR"]
	$(PYTHON) benchmarks/gpu_report.py $(ARGS)

# Several gigabytes of releases, one after the other.
.PHONY: triton-versions
triton-versions: develop ## Compile and run the Triton kernels with every released Triton (an hour) [ARGS="3.5 3.6"]
	$(BIN)/python .ci/triton_versions $(ARGS)

.PHONY: wheel
wheel: environment ## Build a wheel in isolation, into dist/
	$(BIN)/python -m pip wheel --no-deps --wheel-dir dist .

.PHONY: compat
compat: environment ## Build and test the wheel with every torch, Python and compiler it claims (hours) [ARGS="torch-2.6"]
	$(BIN)/python .ci/compat $(ARGS)

.PHONY: sanitize
sanitize: $(SANITIZED) ## Run the op tests on kernels built with ASan and UBSan, every instruction set [SETS=avx512]
	.ci/sanitize $(ARGS)

.PHONY: avx512-emulated
avx512-emulated: $(if $(HAS_AVX512),develop,build/emulated/.built) ## Run the op tests with AVX-512, emulated where it is missing
	CI=true ADADAGRAD_KERNELS_ISA=avx512 $(if $(HAS_AVX512),,PYTHONPATH=build/emulated/lib) \
	  $(BIN)/pytest -p no:cacheprovider $(or $(ARGS),python_tests/ops)

.PHONY: neon
neon: environment ## Run the op tests on the NEON kernels, cross-compiled and executed by QEMU (slow)
	.ci/neon $(ARGS)

.PHONY: environment
environment: $(VENV)/.requirements ## Make .venv with the pinned requirements

.PHONY: install
install: $(VENV)/.demo ## Build the package for CPUs and install it into .venv, with what the demo needs

.PHONY: develop
develop: $(VENV)/.installed ## Build and install the whole package, with all that checks, tests and measures it

.PHONY: clean
clean: ## Remove everything that was made, but for runs/
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What is asked of the machine comes before what takes minutes.
$(VENV)/.build-requirements: $(BUILD)
	@for name in $${CXX:-c++ g++ clang++}; do command -v "$$name" >/dev/null && exit; done; \
	echo "no C++ compiler was found ($${CXX:-c++, g++, clang++}): install one that knows C++20, such as" \
	  "Debian's package g++, or name it in CXX" >&2; exit 1
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -r $(BUILD)
	touch $@

# Of torch's and transformers' thousands of files few are imported: those are compiled by the first
# who does. For the demo that is here, where the kernels are compiled beside it.
$(VENV)/.demo-requirements: $(VENV)/.build-requirements $(BUILD) $(DEMO)
	$(PIP_INSTALL) --no-compile -r $(DEMO)
	$(BIN)/python -c "import matplotlib.figure, sklearn.datasets, torch._dynamo, tqdm"
	touch $@

$(VENV)/.requirements: $(VENV)/.build-requirements $(REQUIREMENTS) $(PEERS)
	$(PIP_INSTALL) --no-compile $(REQUIREMENTS:%=-r %)
	$(PIP_INSTALL) --no-compile --no-deps -r $(PEERS)
	touch $@ $(VENV)/.demo-requirements

# The kernels for CPUs, which need nothing of torch: compiled while pip, which takes one core, brings
# the rest. What installs the package finds them in build/. ninja has jobs of its own.
build/.compiled: $(NATIVE) $(VENV)/.build-requirements
	MAKEFLAGS= CMAKE_ARGS="-DADAK_INSTRUCTION_SETS='$(SETS)' $(CMAKE_ARGS) -DADAK_CUDA=OFF" \
	  $(BIN)/python setup.py --quiet build_ext
	touch $@

# build/ keeps the compiled objects; the folder that a wheel is packed from starts empty, or a
# module that was deleted here would live on in it.
$(VENV)/.demo: $(SOURCES) $(VENV)/.build-requirements $(DEMO)
$(VENV)/.installed: $(SOURCES) $(VENV)/.build-requirements $(REQUIREMENTS) $(PEERS)
# Said each time, since build/ remembers it; what the environment says comes last and counts.
$(VENV)/.demo: CUDA := OFF
$(VENV)/.installed: CUDA := AUTO
# A demonstration runs here and nowhere else.
$(VENV)/.demo: SETS := $(WIDEST)
$(VENV)/.demo: NEEDED := $(VENV)/.demo-requirements
$(VENV)/.installed: NEEDED := $(VENV)/.requirements
$(VENV)/.demo $(VENV)/.installed:
	@$(MAKE) --no-print-directory --jobs 2 $(NEEDED) build/.compiled SETS="$(SETS)"
	rm -rf build/lib*
	CMAKE_ARGS="-DADAK_CUDA=$(CUDA) -DADAK_INSTRUCTION_SETS='$(SETS)' $(CMAKE_ARGS)" \
	  $(PIP_INSTALL) --no-build-isolation --no-deps .
	touch $(VENV)/.demo $@

# Builds beside the installed one, to be put on PYTHONPATH. Sanitizers see into the emulation, but
# not into AVX-512's own masked loads. -O1 compiles three times as fast as -O3 with sanitizers.
$(SANITIZED): OPTIONS := -DADAK_SANITIZE=address,undefined -DADAK_EMULATE_AVX512=ON \
  -DADAK_CUDA=OFF -DCMAKE_CXX_FLAGS_RELEASE=-O1 -DADAK_INSTRUCTION_SETS='$(SETS)'
build/emulated/.built: OPTIONS := -DADAK_EMULATE_AVX512=ON -DADAK_CUDA=OFF
$(SANITIZED) build/emulated/.built: $(SOURCES) $(VENV)/.requirements
	rm -rf $(@D)/lib
	CMAKE_ARGS="$(CMAKE_ARGS) $(OPTIONS)" $(BIN)/python setup.py --quiet build \
	  --build-base $(@D) --build-lib $(@D)/lib
	touch $@
