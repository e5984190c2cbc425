"""The driver of a hyperparameter search: draws settings, runs trials as processes, and keeps their results.

Several drivers may work on one study. A study's journal (Optuna's) and the trials' folders hold all there is to know,
so that drivers and trials may be killed at any moment. Leases (segframe.training.study) keep a trial from being run
twice.
"""

import shlex
import signal
import sys
import warnings
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf
from optuna.trial import FrozenTrial, Trial, TrialState

from segframe import preemption
from segframe.analysis.study_report import describe_trial, report_study
from segframe.cli.search_space import Space, read_space, setting_words, suggest
from segframe.cli.study_setup import LOCK, Sampling, check_settings, open_study
from segframe.cli.trial_process import COMMAND, TrialProcess, environments
from segframe.config.composition import config_dir_flags, train_command
from segframe.files import as_named
from segframe.training.study import Lease, TrialAddress, locked, read_result

POLL_SECONDS = 0.2
"""Interval at which the trials' processes are checked."""
CLAIM_SECONDS = 1.0
"""Interval at which trials that other drivers have left are looked for."""


def search(config: DictConfig) -> None:
    """Work on a study until all its trials are finished; exit code 1 if one failed, or none is complete."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # constant_liar, in Optuna 4
    check_settings(config)
    plain: Any = OmegaConf.to_container(config, resolve=False)
    space = read_space(plain["search"], plain["overrides"])
    driver = Driver(config, space)
    try:
        driver.run()
    except Exception:
        driver.terminate()
        raise
    failed = driver.report()
    sys.exit(1 if failed else 0)


class Driver:
    """Runs trials of a study until all are finished; several drivers may work on one study."""

    def __init__(self, config: DictConfig, space: Space) -> None:
        self.folder, self.space = Path(config.study), space
        self.pruner: Any = OmegaConf.to_container(config.pruner, resolve=True)
        self.sampling = Sampling(config.sampler, space)
        self.limit = self.sampling.limit(config.trials)
        self.flags = config_dir_flags()
        self.study, self.journal, facts = open_study(self.folder, space)
        self.monitor = facts.monitor
        self.end = monotonic() + 60 * config.timeout if config.timeout is not None else float("inf")
        self.slots = environments(config.workers, facts.devices)
        self.running: dict[int, TrialProcess] = {}  # by place among the slots
        self.next_claim = 0.0
        self.signal: int | None = None
        for number in preemption.SIGNALS:
            signal.signal(number, self.on_signal)

    def lock(self) -> Any:
        """Keeps other drivers from drawing and taking over trials."""
        return locked(self.folder / LOCK)

    def on_signal(self, number: int, frame: Any) -> None:
        """End with the trials' current steps; a second Ctrl-C ends all at once."""
        if number == self.signal == signal.SIGINT:
            for process in self.running.values():
                process.kill()
            preemption.end_at_once()
        self.signal = number

    def run(self) -> None:
        """Run trials until the study is finished, also those that other drivers leave."""
        while True:
            self.collect()
            if self.signal is not None:
                self.end_trials(self.signal)
            over = False
            if monotonic() > self.next_claim and len(self.running) < len(self.slots):
                over = self.fill()
            if over and not self.running:
                return
            for process in self.running.values():
                process.lease.heartbeat.beat()
            sleep(POLL_SECONDS)

    def fill(self) -> bool:
        """Start trials in the free slots; returns whether nothing is left to do for this driver."""
        for slot in sorted(set(range(len(self.slots))) - set(self.running)):
            with self.lock():
                trial, lease, over = self.claim()
            if trial is None or lease is None:
                self.next_claim = monotonic() + CLAIM_SECONDS
                return over
            self.start(slot, trial, lease)
        return False

    def claim(self) -> tuple[FrozenTrial | None, Lease | None, bool]:
        """A trial without a process, else a new one, and its lease; else whether this driver has nothing left to do."""
        if monotonic() > self.end:
            return None, None, True
        trials = self.study.get_trials(deepcopy=False)
        mine = {process.number for process in self.running.values()}
        others = [t for t in trials if t.state is TrialState.RUNNING and t.number not in mine]
        for trial in others:
            if lease := Lease.take(self.trial_folder(trial.number)):
                if not self.journal.get_trial(trial._trial_id).state.is_finished():  # by another driver, just now
                    self.study.sampler = self.sampling.sampler(trial.number)
                    # Draws the settings that its killed driver had not drawn.
                    suggest(Trial(self.study, trial._trial_id), self.space.ranges)
                    return self.journal.get_trial(trial._trial_id), lease, False
                lease.release()
        drawn = sum(trial.state is not TrialState.WAITING for trial in trials)
        if drawn >= self.limit:
            return None, None, not others
        self.study.sampler = self.sampling.sampler(len(trials))
        new = self.study.ask()
        suggest(new, self.space.ranges)
        return self.journal.get_trial(new._trial_id), Lease.take(self.trial_folder(new.number)), False

    def trial_folder(self, number: int) -> Path:
        return self.folder / str(number)

    def start(self, slot: int, trial: FrozenTrial, lease: Lease) -> None:
        """Run a trial, unless its result is there: its driver was killed before recording it."""
        folder = self.trial_folder(trial.number)
        address = TrialAddress(str(self.folder.absolute()), trial.number, self.pruner)
        words = [*self.flags, *self.space.fixed, *setting_words(trial.params), f"output_dir={folder}", "resume=auto"]
        process = TrialProcess(trial, folder, lease, [*COMMAND, *words], address, self.slots[slot])
        if read_result(folder) is not None:
            self.finish(process, "")
            return
        print(f"trial {trial.number}: {shlex.join(setting_words(trial.params))}  ({as_named(folder)})", flush=True)
        process.start()
        self.running[slot] = process

    def collect(self) -> None:
        """Finish the trials whose processes have ended; those that were killed go on, unless this driver ends."""
        for slot, process in list(self.running.items()):
            if (code := process.poll()) is None:
                continue
            if read_result(process.folder) is None and self.signal is not None:
                process.lease.release()  # the next driver continues it, whatever its exit code
                del self.running[slot]
                continue
            error = process.error(code)
            if error is None:
                process.start()
            else:
                del self.running[slot]
                self.finish(process, error)

    def finish(self, process: TrialProcess, error: str) -> None:
        """Write a trial's end into the journal: complete, pruned, or failed with an error."""
        result, id_ = read_result(process.folder), process.trial._trial_id
        if result is not None and result.best is None and result.pruned is None:
            error = error or f"it ended without a value of {self.monitor}"
        try:
            if error:
                self.journal.set_trial_user_attr(id_, "error", error)
                self.journal.set_trial_state_values(id_, TrialState.FAIL)
            elif result is not None:
                state = TrialState.COMPLETE if result.pruned is None else TrialState.PRUNED
                self.journal.set_trial_state_values(id_, state, None if result.best is None else [result.best])
        finally:
            process.lease.release()
        trials = self.study.get_trials(deepcopy=False)
        finished = sum(trial.state.is_finished() for trial in trials)
        text = describe_trial(self.journal.get_trial(id_), self.monitor)
        print(f"trial {process.number}: {text}; {finished} of {self.limit} finished", flush=True)

    def terminate(self) -> None:
        """Ask the trials to end with a checkpoint."""
        for process in self.running.values():
            process.terminate()

    def end_trials(self, number: int) -> None:
        """Let the trials write their checkpoints, and end with the signal's exit code."""
        self.terminate()
        numbers = ", ".join(str(process.number) for process in self.running.values()) or "none"
        name = preemption.signal_name(number)
        print(
            f"{name}: running trials ({numbers}) end with their current steps; the same command continues", flush=True
        )
        end = monotonic() + preemption.SECONDS
        while self.running and monotonic() < end:
            self.collect()
            sleep(POLL_SECONDS)
        preemption.end(number)

    def report(self) -> bool:
        """Show and write the study's results; returns whether one failed or none is complete."""
        trials = self.study.get_trials(deepcopy=False)
        complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        with self.lock():
            report_study(self.study, self.folder, self.monitor)
        if complete:
            best = self.study.best_trial
            command = shlex.join([*self.flags, *self.space.fixed, *setting_words(best.params)])
            print(
                f"best: trial {best.number}, {self.monitor} {best.value:.4f}, again with\n{train_command()} {command}"
            )
        print(f"watch: tensorboard --logdir {self.folder}", flush=True)
        return not complete or any(trial.state is TrialState.FAIL for trial in trials)
