# PROFILE names a file in configs/; CORES is how many jobs run side by side, each on `threads` CPU threads of the profile.
PROFILE ?= demo
CORES ?= $(shell nproc)
SHELL := bash
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH" OMP_NUM_THREADS=1
.PHONY: env book results test bench bench-gpu research clean

env:     ; @tools/env.sh
results: env ; $(RUN) snakemake --configfile configs/$(PROFILE).yaml --cores $(CORES) --quiet rules -- results
book:    env ; $(RUN) snakemake --configfile configs/$(PROFILE).yaml --cores $(CORES) --quiet rules -- book
test:    env ; $(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) pytest
# let nothing else run meanwhile; the bench sets its numbers of threads itself
bench:     env ; PATH="$(CURDIR)/.venv/bin:$$PATH" python -m benchmarks
bench-gpu: env ; PATH="$(CURDIR)/.venv/bin:$$PATH" python -m benchmarks --gpu
# an hour: trains the sets of priors that the chapter "Beyond the paper" compares; needs the book's results
research:  env ; $(RUN) python -m research
clean:   ; rm -rf book/_build book/chapters results/*/notebooks .snakemake
