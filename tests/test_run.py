"""The board of a run: what is left by known times, what a failure shows; the runs themselves are in test_chain.py."""

import io
import json

import pytest
from run import Board, minutes, reason, why


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


LAST = {"data": [20, 2], "prior vocals": [60, 1], "prior bass": [100, 1], "book": [10, 1]}


def board(last=LAST, live=False):
    made = Board(io.StringIO(), last, cores=2, live=live, clock=Clock())
    made.plan({"data": 1, "prior": 2, "book": 1, "total": 4})
    return made


def test_what_is_left_is_what_the_last_run_took_on_all_cores():
    run = board()
    assert run.left() == (20 * 2 + 60 + 100 + 10) / 2
    run.begin(1, "data", "composing", 2)
    run.clock.now = 5
    assert run.left() == (20 * 2 + 60 + 100 + 10) / 2 - 5  # it has both cores
    run.clock.now = 20
    run.finish(1)
    assert run.left() == (60 + 100 + 10) / 2
    run.begin(2, "prior bass", "training bass", 1)
    run.begin(3, "prior vocals", "training vocals", 1)
    run.clock.now = 80
    run.finish(3)
    assert run.left() == (100 - 60 + 10) / 2


def test_a_machine_twice_as_slow_takes_twice_as_long():
    run = board()
    run.begin(1, "data", "composing", 2)
    run.clock.now = 40
    run.finish(1)
    assert run.left() == 2 * (60 + 100 + 10) / 2


def test_a_job_that_takes_longer_than_last_time_leaves_no_less_than_nothing():
    run = board()
    run.plan({"book": 1, "total": 1})
    run.begin(1, "book", "building", 1)
    run.clock.now = 1000
    assert run.left() == 0


def test_some_jobs_of_a_rule_take_their_mean():
    run = board()
    run.plan({"prior": 1, "total": 1})
    assert run.left() == 80 / 2


def test_without_an_earlier_run_nothing_is_guessed():
    assert board(last={}).left() is None and "left" not in board(last={}).line()
    partly = board(last={"data": [20, 2]})
    assert partly.left() is None


def test_the_line_says_what_runs_how_much_is_done_and_what_is_left():
    run = board()
    run.begin(1, "data", "composing", 2)
    run.clock.now = 20
    run.finish(1)
    run.begin(2, "prior bass", "training bass", 1)
    run.begin(3, "prior vocals", "training vocals", 1)
    assert run.line() == "0:20, 1 of 4 steps done, about 1:25 left: training bass; training vocals"
    assert minutes(3661.9) == "61:01"


@pytest.mark.parametrize(("live", "seconds", "lines"), [(False, 59, 0), (False, 61, 1), (True, 61, 2)])
def test_a_file_gets_a_line_a_minute_and_a_terminal_one_that_changes(live, seconds, lines, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    run = board(live=live)
    run.begin(1, "data", "a long description of what is being done", 2)
    run.clock.now = seconds
    run.tick()
    run.tick()
    text = run.out.getvalue()
    assert text.count("steps done") == lines
    if live:
        assert "\n" not in text and all(len(part) < 40 for part in text.split("\r\x1b[K"))
    run.say("done \x1b[31m")
    assert run.out.getvalue().endswith("done \\x1b[31m\n")


def test_a_failure_shows_the_end_of_its_log_and_where_it_lies(tmp_path):
    log = tmp_path / "05.ipynb"
    trace = [f"line {n}" for n in range(20)] + ["\x1b[0;31mValueError\x1b[0m: no songs"]
    error = {"output_type": "error", "ename": "ValueError", "evalue": "no songs", "traceback": trace}
    log.write_text(json.dumps({"cells": [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": [error]}]}))
    told = why([str(log)]).splitlines()
    assert told[-2:] == ["  ValueError: no songs", f"  (log: {log})"] and len(told) == 9
    text = tmp_path / "fit.txt"
    text.write_text("\n".join(f"line {n}" for n in range(20)))
    assert why([str(text)]).splitlines()[0] == "  line 12"


def test_a_kernel_that_died_left_no_traceback_but_a_message(tmp_path):
    log = tmp_path / "05.ipynb"
    (tmp_path / "05.ipynb.err").write_text("nbclient.exceptions.DeadKernelError: Kernel died\n")
    log.write_text(json.dumps({"cells": [{"cell_type": "code", "outputs": []}]}))
    assert why([str(log)]) == f"  nbclient.exceptions.DeadKernelError: Kernel died\n  (log: {log}.err)"
    assert "no log" in why([str(tmp_path / "none.ipynb")])


def test_a_sentence_for_users_comes_without_the_place_that_raised_it():
    place = '  File "/x/Snakefile", line 44, in <module>\n'
    told = f'WorkflowError in file "/x/Snakefile", line 44:\nMUSDB_PATH is not set; set MUSDB_PATH\n{place}'
    assert reason(told) == "MUSDB_PATH is not set; set MUSDB_PATH"
    fault = f"NameError in file \"/x/Snakefile\", line 44:\nname 'x' is not defined\n{place}"
    assert reason(fault) == f"name 'x' is not defined\n{place}"
