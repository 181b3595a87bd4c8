# PROFILE names a file in configs/; CORES is how many jobs run side by side, each on `threads` CPU threads of the profile;
# QUIET=1 prints nothing but failures.
CORES ?= $(shell nproc)
SHELL := bash
HTML := book/_build/html
RUN := PATH="$(CURDIR)/.venv/bin:$$PATH" OMP_NUM_THREADS=1
.PHONY: env book keep book-from-results site pdf live results check-results test test-all test-faults test-cluster test-scale test-gpu bench bench-gpu plan research clean

env:     ; @tools/env.sh
# everything that is not up to date; the demo, whose results are committed, takes an hour: make book PROFILE=demo
results book: env ; @$(RUN) python tools/run.py $@ --profile $(or $(PROFILE),quick) --cores $(CORES) $(if $(QUIET),--quiet)
# the executed chapters, made small, to be committed beside the scores; and the book from what was committed, untrained
keep:    env ; $(RUN) python tools/build_book.py results/$(or $(PROFILE),demo) --keep && python tools/codecheck.py
book-from-results: env ; $(RUN) python tools/build_book.py results/$(or $(PROFILE),demo) --kept
# site/ for any static host, of the book that was built last, or else of what was committed
site:    env ; test -f $(HTML)/index.html || $(MAKE) book-from-results; rm -rf site && cp -r $(HTML) site
pdf:     env ; $(RUN) python tools/make_pdf.py $(HTML) book/_build/book.pdf
# the form of chapter Live in JupyterLab; its server takes uploads of 300 MB, and the form is told. OPTIONS are Jupyter's
live:    env ; PATH="$(CURDIR)/.venv/bin:$$PATH" OMP_WAIT_POLICY=passive FLOWSEP_UPLOAD_MB=300 jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) $(OPTIONS) \
	--ServerApp.tornado_settings="{'websocket_max_message_size': 301_000_000}" notebooks/live.ipynb
# fails when the committed results are not of the committed code, configs and seeds; a test runs it too
check-results: env ; $(RUN) python tools/check_results.py
test:    env ; $(RUN) ruff check . && $(RUN) ruff format --check . && $(RUN) mypy && $(RUN) pytest -n 2 --dist loadfile
# what guards daily work, and then what is slow: the paper's profiles in miniature, hostile files, faults, a cluster
test-all: test ; $(RUN) pytest -n 2 --dist loadfile -m slow && $(MAKE) test-faults test-cluster
# runs killed, starved and interrupted at seeded moments, half an hour of two cores: results/faults.json when all went well
test-faults: env ; $(RUN) pytest -m "" tests/faults
# the smoke profile through a Slurm that is started here, as root, and stopped: beside a run without it, a killed job
test-cluster: env ; $(RUN) python tests/cluster/run.py
# on a machine with a GPU that nothing else uses: the tests that need one, and the bench
test-gpu: env ; $(RUN) pytest -n 0 -m gpu && $(MAKE) bench-gpu
# MUSDB18 at its full size, of three composed songs under 150 names; 20 minutes of two cores, 30 GB of disk
test-scale: env ; $(RUN) OMP_NUM_THREADS=$(CORES) python tests/scale/run.py
# let nothing else run meanwhile; the bench sets its numbers of threads itself
bench:     env ; PATH="$(CURDIR)/.venv/bin:$$PATH" python -m benchmarks
bench-gpu: env ; PATH="$(CURDIR)/.venv/bin:$$PATH" python -m benchmarks --gpu
# what the experiments with MUSDB18 would take on one, four and eight GPUs: results/scale.csv
plan:    env ; $(RUN) python -m benchmarks.plan
# an hour: trains the sets of priors that the chapter "Beyond the paper" compares; needs the book's results
research:  env ; $(RUN) python -m research
clean:   ; rm -rf site book/_build book/chapters results/*/notebooks .snakemake
