# The graph of notebooks: one papermill process each, outputs declared, so that a killed run goes on where it was and a
# changed checkpoint re-runs only what hangs on it.
#
#   snakemake --configfile configs/demo.yaml --cores 2 book
#
# A notebook that fails stays, with its traceback, under results/<profile>/logs/.
import os
import re
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path

import torch
from companion.data.tracks import load_dataset
from companion.profile import load_profile
from companion.systems import load_system
from flowsep.files import FlowsepError, locked, safe_name
from flowsep.machine import choose_device
from snakemake.exceptions import WorkflowError

if not workflow.configfiles:
    raise WorkflowError("name a profile: snakemake --configfile configs/demo.yaml ...")
HELD = ExitStack()  # until this process ends, however it ends: Snakemake's own locks outlive a kill (profiles/default)

def parts(system):  # what jobs of their own fit of it: its priors one by one, or all at once
    return load_system(system, PROFILE.systems[system], sources=PROFILE.sources).parts()

# relative paths in the profile begin at its file, also in notebooks, which only get what it says
os.environ["FLOWSEP_PROFILE_FOLDER"] = str(Path(workflow.configfiles[0]).resolve().parent)

try:  # an unknown key, system or option and missing data stop before any work
    PROFILE = load_profile(config.get("profile", {}))
    if not workflow.remote_exec:  # a job on a cluster parses this twice, and need not look again
        for system in PROFILE.systems:
            parts(system)
        if PROFILE.data.kind != "toyband":  # which the first job composes
            load_dataset(PROFILE.data, PROFILE.seed)
    # a second run of the profile waits for the first; that it is a dry one is not yet known to `workflow`
    if workflow.is_main_process and not {"-n", "-np", "--dry-run", "--dryrun"} & set(sys.argv):
        HELD.enter_context(locked(f"results/{PROFILE.name}"))
        from companion.graph.steps import forget_failures

        forget_failures(Path("results") / PROFILE.name)
except FlowsepError as error:
    raise WorkflowError(str(error)) from error

# On a cluster the jobs look for themselves. What is asked here would keep memory of the GPU, if there were one.
onstart:
    if not workflow.non_local_exec and PROFILE.training.device.startswith("cuda") and not torch.cuda.is_available():
        try:
            choose_device(PROFILE.training.device)
        except FlowsepError as error:
            raise WorkflowError(str(error)) from error

CONFIG = shlex.quote(str(workflow.configfiles[0]))
OUT = f"results/{PROFILE.name}"
EXCERPTS = f"{OUT}/audio/references"
OWN = {name: options["class"].rpartition(":")[0] for name, options in PROFILE.systems.items() if "class" in options}

wildcard_constraints:
    source="|".join(map(re.escape, PROFILE.sources)),
    system="|".join(map(re.escape, PROFILE.systems)),
    number=r"\d+",

# Written beside the log first and renamed when it has run to its end: a notebook under notebooks/ is a whole one.
# What papermill and the kernel print goes to a file, since the notebook itself holds the traceback of a failure.
RUN = (
    "OMP_NUM_THREADS={threads} papermill {input.notebook} {log} -f " + CONFIG + " {params.more} --log-level WARNING"
    " --no-progress-bar 2> {log}.err && mkdir -p $(dirname {output.notebook}) && cp {log} {output.notebook}"
)

# A separation that fails, or dies, runs once more for rows that say so, and the others get their tables. An interrupt
# is no failure.
def or_rows(command):
    give_up = f"python -m companion give-up {{wildcards.system:q}} --log {{log:q}} --profile {CONFIG}"
    return f"trap 'exit 130' INT TERM; {command} || ({give_up} && {command})"

# A job that gets the whole machine; on a cluster, where it sees only some node, what the others get.
def all_cores(wildcards):
    return PROFILE.threads if workflow.remote_exec or workflow.non_local_exec else workflow.cores

rule results:
    input:
        f"{OUT}/notebooks/06_results.ipynb",

rule data:
    input:
        notebook="notebooks/01_data.ipynb",
    output:
        notebook=f"{OUT}/notebooks/01_data.ipynb",
        manifest=f"{OUT}/data.json",
        excerpts=directory(EXCERPTS),
    log:
        f"{OUT}/logs/01_data.ipynb",
    params:
        more="",
    threads: all_cores
    shell:
        RUN

rule spectrograms:
    input:
        f"{OUT}/data.json",
        notebook="notebooks/02_spectrograms_and_phase.ipynb",
    output:
        notebook=f"{OUT}/notebooks/02_spectrograms_and_phase.ipynb",
    log:
        f"{OUT}/logs/02_spectrograms_and_phase.ipynb",
    params:
        more="",
    threads: PROFILE.threads
    shell:
        RUN

rule inverse:
    input:
        f"{OUT}/data.json",
        notebook="notebooks/00_an_inverse_problem.ipynb",
    output:
        notebook=f"{OUT}/notebooks/00_an_inverse_problem.ipynb",
    log:
        f"{OUT}/logs/00_an_inverse_problem.ipynb",
    params:
        more="",
    threads: PROFILE.threads
    shell:
        RUN

rule glow:
    input:
        notebook="notebooks/03_glow.ipynb",
    output:
        notebook=f"{OUT}/notebooks/03_glow.ipynb",
    log:
        f"{OUT}/logs/03_glow.ipynb",
    params:
        more="",
    threads: PROFILE.threads
    shell:
        RUN

# All that is learnt from is decoded and resampled here, into the cache folder, which no other job writes to. Only its
# being there counts: a system that joins the profile must not train the others again.
rule cache:
    input:
        f"{OUT}/data.json",
    output:
        f"{OUT}/cache.json",
    log:
        f"{OUT}/logs/cache.txt",
    params:
        settings=[PROFILE.hash_of(name) for name in PROFILE.systems],
    priority: 20
    threads: all_cores
    shell:
        f"OMP_NUM_THREADS={{threads}} python -m companion cache --profile {CONFIG} > {{log:q}} 2>&1"

rule prior:
    input:
        f"{OUT}/data.json",
        ancient(f"{OUT}/cache.json"),
        notebook="notebooks/04_train_prior.ipynb",
    output:
        notebook=f"{OUT}/notebooks/04_train_prior_{{source}}.ipynb",
        prior=f"{OUT}/priors/{{source}}.safetensors",
    log:
        f"{OUT}/logs/04_train_prior_{{source}}.ipynb",
    params:
        more="-p source {source}",
        settings=lambda wildcards: PROFILE.hash_of(""),  # another value of the profile runs the job again
    priority: 12  # before what is fitted otherwise: the longest separation waits for all priors
    threads: PROFILE.threads
    shell:
        RUN

rule inside:
    input:
        expand(f"{OUT}/priors/{{source}}.safetensors", source=PROFILE.sources),
        notebook="notebooks/08_inside_the_priors.ipynb",
    output:
        notebook=f"{OUT}/notebooks/08_inside_the_priors.ipynb",
        table=f"{OUT}/likelihood.csv",
    log:
        f"{OUT}/logs/08_inside_the_priors.ipynb",
    params:
        more="",
    threads: PROFILE.threads
    shell:
        RUN

rule shown:
    input:
        expand(f"{OUT}/priors/{{source}}.safetensors", source=PROFILE.sources),
        notebook="notebooks/09_the_flow_shown.ipynb",
    output:
        notebook=f"{OUT}/notebooks/09_the_flow_shown.ipynb",
    log:
        f"{OUT}/logs/09_the_flow_shown.ipynb",
    params:
        more="",
    threads: PROFILE.threads
    shell:
        RUN

# A training goes on from what it keeps beside its output in systems/, where a killed job leaves it.
rule fit:
    input:
        lambda wildcards: OWN.get(wildcards.system, []),
        f"{OUT}/data.json",
        ancient(f"{OUT}/cache.json"),
    output:
        f"{OUT}/systems/{{system}}/fitted/{{part}}.json",
    log:
        f"{OUT}/logs/fit_{{system}}_{{part}}.txt",
    params:
        settings=lambda wildcards: PROFILE.hash_of(wildcards.system),
    priority: 10
    threads: PROFILE.threads
    shell:
        "OMP_NUM_THREADS={threads} python -m companion fit {wildcards.system:q} --part {wildcards.part:q}"
        f" --profile {CONFIG} > {{log:q}} 2>&1"

def needs(wildcards):
    if wildcards.system == "instglow":
        return expand(rules.prior.output.prior, source=PROFILE.sources)
    fitted = expand(rules.fit.output, system=wildcards.system, part=map(safe_name, parts(wildcards.system)))
    return fitted + [OWN[wildcards.system]] if wildcards.system in OWN else fitted

rule shard:
    input:
        needs,
        f"{OUT}/data.json",
    output:
        directory(f"{OUT}/shards/{{system}}/{{number}}of{PROFILE.shards}"),
    log:
        f"{OUT}/logs/shard_{{system}}_{{number}}.txt",
    params:
        settings=lambda wildcards: PROFILE.hash_of(wildcards.system),
    priority: 15  # as soon as they can: the longest of them would else run alone at the end
    threads: PROFILE.threads
    shell:
        or_rows(
            "OMP_NUM_THREADS={threads} python -m companion shard {wildcards.system:q} {wildcards.number}"
            f" --profile {CONFIG} > {{log:q}} 2>&1"
        )

# with several shards it gathers them, with one it separates by itself
rule separate:
    input:
        needs,
        lambda wildcards: (
            expand(rules.shard.output, system=wildcards.system, number=range(PROFILE.shards))
            if PROFILE.shards > 1 else []
        ),
        f"{OUT}/data.json",
        notebook="notebooks/05_separate.ipynb",
    output:
        notebook=f"{OUT}/notebooks/05_separate_{{system}}.ipynb",
        scores=f"{OUT}/scores/{{system}}.csv",
        excerpts=directory(f"{OUT}/audio/{{system}}"),
    log:
        f"{OUT}/logs/05_separate_{{system}}.ipynb",
    params:
        more="-p system {system}",
        settings=lambda wildcards: PROFILE.hash_of(wildcards.system),
    priority: 15
    threads: PROFILE.threads
    shell:
        or_rows(RUN)

rule ablations:
    input:
        expand(rules.prior.output.prior, source=PROFILE.sources),
        notebook="notebooks/11_ablations.ipynb",
    output:
        notebook=f"{OUT}/notebooks/11_ablations.ipynb",
    log:
        f"{OUT}/logs/11_ablations.ipynb",
    params:
        # no output: Snakemake would delete it before the job, and with it the runs that a killed grid has done
        more="",
    priority: 13  # a long job, which would else run alone at the end
    threads: PROFILE.threads
    shell:
        RUN

rule own_system:
    input:
        OWN.values(),
        expand(rules.separate.output.scores, system=[*OWN, *({"instglow"} & set(PROFILE.systems) if OWN else ())]),
        notebook="notebooks/12_your_own_system.ipynb",
    output:
        notebook=f"{OUT}/notebooks/12_your_own_system.ipynb",
    log:
        f"{OUT}/logs/12_your_own_system.ipynb",
    params:
        more="",
    threads: PROFILE.threads
    shell:
        RUN

JOINED = PROFILE.new_sources and "flowsep" in PROFILE.systems  # whose priors the new ones join

if JOINED:
    rule new_source:
        input:
            expand(rules.fit.output, system="flowsep", part=map(safe_name, parts("flowsep"))),
            notebook="notebooks/10_a_new_source.ipynb",
        output:
            notebook=f"{OUT}/notebooks/10_a_new_source.ipynb",
            scores=f"{OUT}/new_sources.csv",
        log:
            f"{OUT}/logs/10_a_new_source.ipynb",
        params:
            more="",
            settings=lambda wildcards: PROFILE.hash_of("flowsep"),
        priority: 14  # it trains priors, too, all in one job
        threads: PROFILE.threads
        shell:
            RUN

rule tables:
    input:
        expand(rules.separate.output.scores, system=PROFILE.systems),
        "results/published.csv",
        "results/sisec18_test_medians.csv",
        notebook="notebooks/06_results.ipynb",
    output:
        expand(f"{OUT}/table-{{convention}}.{{kind}}", convention=PROFILE.evaluation.conventions, kind=("md", "csv")),
        f"{OUT}/tables.json",
        notebook=f"{OUT}/notebooks/06_results.ipynb",
    log:
        f"{OUT}/logs/06_results.ipynb",
    params:
        more="",
    threads: PROFILE.threads
    shell:
        RUN

rule listen:
    input:
        EXCERPTS,
        expand(rules.separate.output.excerpts, system=PROFILE.systems),
        notebook="notebooks/07_listen.ipynb",
    output:
        notebook=f"{OUT}/notebooks/07_listen.ipynb",
    log:
        f"{OUT}/logs/07_listen.ipynb",
    params:
        more="",
    threads: PROFILE.threads
    shell:
        RUN

rule failures:
    input:
        expand(rules.separate.output.scores, system=PROFILE.systems),
        notebook="notebooks/15_what_it_cannot_do.ipynb",
    output:
        notebook=f"{OUT}/notebooks/15_what_it_cannot_do.ipynb",
    log:
        f"{OUT}/logs/15_what_it_cannot_do.ipynb",
    params:
        more="",
    threads: PROFILE.threads
    shell:
        RUN

rule real_song:
    input:
        expand(rules.separate.output.scores, system=PROFILE.systems),
        notebook="notebooks/17_a_real_song.ipynb",
    output:
        notebook=f"{OUT}/notebooks/17_a_real_song.ipynb",
    log:
        f"{OUT}/logs/17_a_real_song.ipynb",
    params:
        more="",
    threads: PROFILE.threads
    shell:
        RUN

rule speed:
    input:
        sorted(map(str, Path("results/bench").glob("*.json"))),
        notebook="notebooks/13_speed.ipynb",
    output:
        notebook=f"{OUT}/notebooks/13_speed.ipynb",
    log:
        f"{OUT}/logs/13_speed.ipynb",
    params:
        more="",
    threads: PROFILE.threads
    shell:
        RUN

rule beyond:
    input:
        sorted(map(str, Path("results/research").glob("*.csv"))),
        notebook="notebooks/14_beyond_the_paper.ipynb",
    output:
        notebook=f"{OUT}/notebooks/14_beyond_the_paper.ipynb",
    log:
        f"{OUT}/logs/14_beyond_the_paper.ipynb",
    params:
        more="",
    threads: PROFILE.threads
    shell:
        RUN

rule machines:
    input:
        sorted(map(str, Path("results").glob("scale.csv"))),  # which is made of this very graph
        notebook="notebooks/16_run_it_on_your_machines.ipynb",
    output:
        notebook=f"{OUT}/notebooks/16_run_it_on_your_machines.ipynb",
    log:
        f"{OUT}/logs/16_run_it_on_your_machines.ipynb",
    params:
        more="",
    threads: PROFILE.threads
    shell:
        RUN

rule book:
    input:
        rules.inverse.output.notebook,
        rules.data.output.notebook,
        rules.spectrograms.output.notebook,
        rules.glow.output.notebook,
        expand(rules.prior.output.notebook, source=PROFILE.sources),
        rules.inside.output.notebook,
        rules.shown.output.notebook,
        [f"{OUT}/notebooks/10_a_new_source.ipynb"] if JOINED else [],
        expand(rules.separate.output.notebook, system=PROFILE.systems),
        rules.tables.output.notebook,
        rules.listen.output.notebook,
        rules.failures.output.notebook,
        rules.real_song.output.notebook if PROFILE.data.kind == "musdb18-7s" else [],
        rules.ablations.output.notebook if PROFILE.ablation else [],
        rules.own_system.output.notebook,
        rules.speed.output.notebook,
        rules.beyond.output.notebook,
        rules.machines.output.notebook,
        [] if PROFILE.name == "musdb18-7s" else "results/musdb18-7s/book/kept.json",  # its pages of real songs
        "_config.yml",
        expand("tools/{name}.py", name=("build_book", "finish", "media", "separate_page")),
        sorted(str(path) for path in Path("book").glob("*.*") if not path.name.startswith(".")),  # a lock lies there
        sorted(map(str, [*Path("book/_static").glob("*"), *Path("book/separate").glob("*")])),
    output:  # there when the book is of this profile, and not of another one
        f"book/_build/html/_data/{PROFILE.name}/ro-crate-metadata.json",
    log:
        f"{OUT}/logs/book.txt",
    shell:
        "python tools/build_book.py {OUT} > {log:q} 2>&1"
