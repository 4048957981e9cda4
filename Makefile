# Targets: demo, test, emulation, interpreted, lint, bench, bench-decoder, bench-parts, bench-server, clients, fuzz, clean. Everything is installed into $(VENV), nothing outside the checkout changes.
# TORCH names the torch build to install first, e.g. make demo TORCH="torch --index-url <your CPU or CUDA wheel index>".

VENV ?= .venv
PYTHON ?= python3
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=
# Processes that share the tests, a file each at a time.
TEST_WORKERS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
SOURCES := pyproject.toml README.md CMakeLists.txt \
  $(shell find csrc cmake python -type f ! -name '*.so' ! -name '*.pyc' 2>/dev/null)
CPP := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null)

.PHONY: help demo test emulation interpreted lint bench bench-decoder bench-parts bench-server clients fuzz clean
.DELETE_ON_ERROR:

help:
	@echo "make demo          classify and rank sample texts with the bundled demo model"
	@echo "make test          run the tests"
	@echo "make emulation     build the AVX-512 and CUDA kernels for any CPU, for the tests (CUDA where a toolkit's headers are found)"
	@echo "make interpreted   run the kernel tests on an interpreted CPU with AVX-512 and AMX (CPU_MODEL=sapphire_rapids)"
	@echo "make lint          ruff, mypy --strict, clang-format"
	@echo "make bench         measure reranking against other engines (installs them)"
	@echo "make bench-decoder measure a reranker made of a language model against sentence-transformers"
	@echo "make bench-parts   measure kernels, latency, scaling, instruction sets, int8 and start-up"
	@echo "make bench-server  measure the server against other servers, and its memory over 100,000 requests"
	@echo "make clients       run real clients (cohere, openai, Haystack, ...) against a live server (installs them)"
	@echo "make fuzz          fire 100,000 broken bodies at a live server, then schemathesis"
	@echo "make clean         remove build output and $(VENV)"

# One stamp per set of packages: a second run is quick, a changed source file installs the package again.
$(VENV)/.torch:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "assay needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing $(TORCH)"
	$(PIP) install $(TORCH)
	@touch $@

$(VENV)/.demo: $(VENV)/.torch $(SOURCES)
	@echo "building and installing assay"
	$(PIP) install ".[demo]"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch $(SOURCES)
	@echo "building and installing assay with the development tools"
	$(PIP) install ".[demo,dev]"
	@touch $@ $(VENV)/.demo

$(VENV)/.bench: $(VENV)/.demo
	@echo "installing the engines to compare with"
	$(PIP) install ".[demo,bench]"
	@touch $@

demo: $(VENV)/.demo
	@echo; echo '$$ assay classify --model demo demo/sample_texts.txt'
	@$(BIN)/assay classify --model demo demo/sample_texts.txt
	@echo; echo "$$ assay rerank --model demo --query 'How do I reset a forgotten password?' demo/documents.txt"
	@$(BIN)/assay rerank --model demo --query 'How do I reset a forgotten password?' demo/documents.txt

emulation: $(VENV)/.dev
	@$(BIN)/cmake -S . -B build/emulation -G Ninja -DCMAKE_BUILD_TYPE=Release -DASSAY_WERROR=ON -DASSAY_CUDA=OFF \
	  -DASSAY_CUDA_EMULATION=AUTO -DASSAY_ISA_EMULATION=ON -DCMAKE_MAKE_PROGRAM="$(abspath $(BIN))/ninja" \
	  -DPython_EXECUTABLE="$(abspath $(BIN))/python" -Dpybind11_DIR="$$($(BIN)/python -m pybind11 --cmakedir)" \
	  --log-level=WARNING
	@$(BIN)/cmake --build build/emulation --target _cpu _cuda_emulated assay_cpu_interpreter

test: $(VENV)/.dev emulation
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

interpreted: $(VENV)/.dev emulation
	LD_BIND_NOW=1 GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW OMP_NUM_THREADS=1 PYTHONPATH=tests \
	  $(BIN)/python -m pytest -p interpreted_plugin -p no:xdist \
	  -k "(vnni or avx512 or amx) and not emulated" $(PYTEST_ARGS) tests/test_kernels_*.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini
	$(BIN)/clang-format --dry-run -Werror $(CPP)

bench: $(VENV)/.bench
	$(BIN)/python bench/bench_rerank.py

bench-decoder: $(VENV)/.bench
	$(BIN)/python bench/bench_decoder.py

bench-parts: $(VENV)/.bench
	$(BIN)/python bench/bench_kernels.py
	$(BIN)/python bench/bench_latency.py
	$(BIN)/python bench/bench_scaling.py
	$(BIN)/python bench/bench_isa.py
	$(BIN)/python bench/bench_int8.py
	$(BIN)/python bench/bench_startup.py

bench-server: $(VENV)/.bench
	$(BIN)/python bench/bench_server.py
	$(BIN)/python bench/bench_server_health.py
	$(BIN)/python bench/bench_server_memory.py

clients: $(VENV)/.dev
	$(BIN)/python clients/run.py

fuzz: $(VENV)/.dev
	$(BIN)/python fuzz/fuzz_server.py
	$(BIN)/python fuzz/schemathesis_server.py

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache $(VENV)
	find python tests bench clients fuzz -name __pycache__ -type d -prune -exec rm -rf {} +
