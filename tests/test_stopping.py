"""How a signal ends a command, and waits where that is better."""

# ruff: noqa: PT012, SIM105 (where the signal comes is what is tested)

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from rarec import stopping
from rarec.artifacts import write_file
from rarec.stopping import SavingLoop, Stopped, held_back, stop_on_signals

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals end a process there")
SENTENCE = "The step was stopped. The same command goes on from here.\n"
# sends itself a signal when a module is imported, or when the command has ended
COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
number, name, *arguments = sys.argv[1:]

class Stopping:
    def find_spec(self, found, path=None, target=None):
        if found == name:
            sys.meta_path.remove(self)
            signal.raise_signal(int(number))

sys.meta_path.insert(0, Stopping())
sys.argv[1:] = arguments
from rarec.cli import main
import atexit
if name == "exit":
    atexit.register(lambda: signal.raise_signal(int(number)))
main()
"""


def command(number: int, name: str, *arguments: str) -> tuple[int, str]:
    """Return exit code and errors of a command that is stopped at the import of a module."""
    ended = subprocess.run(
        [sys.executable, "-c", COMMAND, str(number), name, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("number", stopping.SIGNALS)
@pytest.mark.parametrize("module", ["typer", "rarec.cli.align", "rarec.recommender"])
def test_a_command_ends_with_one_sentence(module, number):
    assert command(number, module, "evaluate", "nowhere") == (128 + number, SENTENCE)


@pytest.mark.parametrize("module", ["torch", "torch._C", "torch.nn", "torch.optim"])
def test_a_command_ends_while_torch_is_imported(module):
    assert command(signal.SIGTERM, module, "doctor") == (143, SENTENCE)


def test_a_signal_after_the_end_is_quiet():
    assert command(signal.SIGINT, "exit", "--help") == (130, "")


def test_handlers_are_as_before(monkeypatch):
    before = {number: signal.getsignal(number) for number in (*stopping.SIGNALS, signal.SIGALRM)}
    with stop_on_signals() as watch, held_back(), SavingLoop(0.0):
        assert all(signal.getsignal(number) != handler for number, handler in before.items())
    assert watch.number is None
    for number in stopping.SIGNALS:
        with pytest.raises(Stopped) as raised, stop_on_signals() as watch:
            signal.raise_signal(number)
        assert (raised.value.number, watch.number, watch.exit_code) == (
            number,
            number,
            128 + number,
        )
    assert {number: signal.getsignal(number) for number in before} == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as watch, held_back():
            signal.raise_signal(signal.SIGHUP)
        assert watch.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


def wait(seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.01)


class Destroyed:
    """Python ignores an exception here."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)
        wait(0.01)


def test_an_exception_that_is_lost_is_raised_again(capsys):
    with pytest.raises(Stopped), stop_on_signals():
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            pass
        wait()
        pytest.fail("not stopped")
    with pytest.raises(Stopped), stop_on_signals():
        Destroyed()
        wait()
        pytest.fail("not stopped")
    assert capsys.readouterr().err == ""


def test_what_is_done_after_a_stop_is_done_whole():
    done = []
    with pytest.raises(Stopped), stop_on_signals():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            # a whole group was signalled, and the parent signals once more
            signal.raise_signal(signal.SIGTERM)
            wait(0.7)
            done.append(1)
    assert done == [1]
    with pytest.raises(Stopped), stop_on_signals():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            wait(0.7)
            # somebody does not want to wait
            signal.raise_signal(signal.SIGINT)
            done.append(2)
    assert done == [1]


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(Stopped), stop_on_signals(), write_file(tmp_path / "file") as temporary:
        temporary.write_text("half")
        signal.raise_signal(signal.SIGTERM)
    assert list(tmp_path.iterdir()) == []


def test_a_signal_is_held_back_until_the_end_of_a_block():
    done = []
    with pytest.raises(Stopped), stop_on_signals():
        with held_back():
            signal.raise_signal(signal.SIGTERM)
            wait(0.3)
            done.append(1)
        done.append(2)
    assert done == [1]
    with pytest.raises(Stopped), stop_on_signals(), held_back():
        signal.raise_signal(signal.SIGTERM)
        wait(0.6)
        signal.raise_signal(signal.SIGTERM)
        done.append(3)
    assert done == [1]


def loop(
    save_seconds: float, *, step: float = 0.0, signal_in: str = "step", again: bool = False
) -> list[str]:
    """Return what was done by a loop of three steps that a signal stops in the second one."""
    done = []
    with pytest.raises(Stopped), stop_on_signals(), SavingLoop(save_seconds) as stopping:
        stopping.begin_step()
        for number in range(3):
            time.sleep(step)
            if number == 1 and signal_in == "step":
                signal.raise_signal(signal.SIGTERM)
                if again:
                    wait(0.6)
                    signal.raise_signal(signal.SIGTERM)
            stopping.end_step()
            done.append(f"step {number}")
            if stopping.is_asked_to_stop or signal_in == "save":
                with stopping.saving():
                    if signal_in == "save":
                        signal.raise_signal(signal.SIGTERM)
                    done.append("saved")
        # a signal that has no state to wait for
        if signal_in == "end":
            signal.raise_signal(signal.SIGTERM)
            done.append("end")
    return done


def test_a_signal_waits_for_a_state_that_is_saved_soon(monkeypatch):
    assert loop(0.1) == ["step 0", "step 1", "saved"]
    assert loop(0.1, signal_in="save") == ["step 0", "saved"]
    assert loop(0.1, signal_in="end") == ["step 0", "step 1", "step 2", "end"]
    # saving would take too long, and so would the step
    assert loop(1.1) == ["step 0"]
    monkeypatch.setattr(stopping, "_MOST_SECONDS", 0.05)
    assert loop(0.0, step=0.001) == ["step 0", "step 1", "saved"]
    assert loop(0.1, signal_in="save") == ["step 0"]


def test_a_second_signal_does_not_wait():
    assert loop(0.1, again=True) == ["step 0"]


def test_the_rest_of_a_step_counts(monkeypatch):
    monkeypatch.setattr(stopping, "_MOST_SECONDS", 0.2)
    for before, expected in ((0.0, False), (0.4, True)):
        with stop_on_signals(), SavingLoop(0.0) as training:
            training.begin_step()
            time.sleep(0.5)
            training.end_step()
            time.sleep(before)
            assert training._is_soon_saved() == expected


def test_how_long_saving_takes_is_measured():
    training = SavingLoop(0.0)
    training.end_step()
    assert training._is_soon_saved()
    with training.saving():
        time.sleep(1.05)
    training.end_step()
    assert not training._is_soon_saved()


def test_other_threads_change_nothing():
    def work():
        with stop_on_signals(), held_back(), SavingLoop(0.0) as training:
            handlers.append(signal.getsignal(signal.SIGTERM))
            with training.saving():
                pass

    handlers = [signal.getsignal(signal.SIGTERM)]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [handlers[0]] * 2
