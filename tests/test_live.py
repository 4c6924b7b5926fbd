"""The live view: what a person sees of a running sweep."""

import io

from rich.console import Console
from small_sweep import SmallSweep

from sweeper.live import Display
from sweeper.worker import Finished


def view(is_terminal: bool) -> tuple[Display, io.StringIO]:
    out = io.StringIO()
    return Display(Console(file=out, width=120, force_terminal=is_terminal, color_system=None)), out


def rendered(display: Display) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(display._render())
    return out.getvalue()


def test_running_trials_show_their_epoch_and_loss(sweep: SmallSweep) -> None:
    display, _ = view(False)
    trial = sweep.plan.trials[0]
    display.begin(sweep.plan.title, [], len(sweep.plan.trials), 0)
    display.trial_progress(trial, "train", 3, 10, {"loss": 0.125})
    shown = rendered(display)
    assert "reference" in shown
    assert "train 3/10" in shown
    assert "loss 0.1250" in shown
    assert f"0/{len(sweep.plan.trials)} finished" in shown


def test_failures_stand_first_with_their_reason(sweep: SmallSweep) -> None:
    display, out = view(False)
    first, second, *_ = sweep.plan.trials
    display.begin(sweep.plan.title, [], len(sweep.plan.trials), 0)
    display.trial_progress(second, "train", 1, 10, {})
    display.trial_ended(first, Finished(*first.key, "failed", "nan", "loss is nan", "some.log", seconds=1.0))
    assert rendered(display).splitlines()[0].startswith("failed (nan): loss is nan")
    assert "FAILED (nan): loss is nan; log: some.log" in out.getvalue()


def test_stages_and_the_time_left_are_shown(sweep: SmallSweep) -> None:
    display, out = view(False)
    stage, trials = sweep.plan.stages[0], sweep.plan.trials
    display.begin(sweep.plan.title, [stage], len(trials), 0)
    display.stage_started(stage)
    assert f"shared stages 0/1: {stage.title}" in rendered(display)
    display.stage_ended(stage)
    display.trial_ended(trials[0], Finished(*trials[0].key, "completed", figures={"clean_accuracy": 0.5}, seconds=40.0))
    assert f"about {40 * (len(trials) - 1)} s left" in out.getvalue() or "min left" in out.getvalue()


def test_a_pipe_gets_plain_lines_without_control_characters(sweep: SmallSweep) -> None:
    display, out = view(False)
    with display:
        display.begin(sweep.plan.title, [], len(sweep.plan.trials), 2)
    assert "2 stored already" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_a_terminal_gets_a_table_that_is_redrawn_and_taken_away(sweep: SmallSweep) -> None:
    display, out = view(True)
    with display:
        display.begin(sweep.plan.title, [], len(sweep.plan.trials), 0)
        display.trial_progress(sweep.plan.trials[0], "train", 3, 10, {"loss": 0.125})
    assert "\x1b[" in out.getvalue()
    assert "train 3/10" in out.getvalue()


def test_a_trial_that_is_begun_elsewhere_is_shown_with_its_host(sweep: SmallSweep) -> None:
    display, _ = view(False)
    trial = sweep.plan.trials[0]
    display.trial_begun(trial, "worker1")
    display.trial_progress(trial, "train", 3, 10, {})
    assert "worker1" in rendered(display)
    display.trial_begun(trial, "worker2")
    assert "worker2" in rendered(display) and "worker1" not in rendered(display) and "starting 0/0" in rendered(display)
