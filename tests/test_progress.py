"""What a person sees while waiting: on a terminal a bar, elsewhere a line now and then."""

import io

import pytest
from rich.console import Console

from fip_jax import progress
from fip_jax.progress import Task


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


@pytest.fixture
def screen(monkeypatch):
    """(what is written, whether it is a terminal) of a console of our own."""

    def make(terminal):
        written = io.StringIO()
        console = Console(file=written, force_terminal=terminal, width=200, highlight=False, soft_wrap=True)
        monkeypatch.setattr(progress, "console", console)
        monkeypatch.setattr(progress.sys, "stdout", Terminal() if terminal else io.StringIO())
        return written

    return make


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_elsewhere_a_line_comes_every_quarter_of_a_minute(clock, screen):
    written = screen(False)
    with Task("train", 40) as task:
        for second in range(1, 41):
            clock.now += 1
            task.update(second, **({"loss": 0.5, "acc": 0.875, "asr": None} if second == 16 else {}))
    # A second a step: after 16 steps 24 s are left, after 32 of them 8; values stay until there are newer ones.
    assert written.getvalue().splitlines() == [
        "  train: 16/40  about 24 s left  loss 0.5  acc 0.875",
        "  train: 32/40  about 8 s left  loss 0.5  acc 0.875",
        "  train: 40/40  loss 0.5  acc 0.875",
    ]


def test_time_left_is_by_the_speed_since_the_first_steps_of_this_start(clock, screen):
    written = screen(False)
    with Task("train", 1000, 600) as task:
        clock.now += 50  # compiling
        task.update(610)
        assert written.getvalue().splitlines() == ["  train: 610/1000"]
        clock.now += 30
        task.update(620)  # ten steps of 3 s: 380 are left
        assert written.getvalue().splitlines()[1:] == ["  train: 620/1000  about 19 min left"]


def test_what_is_over_soon_says_nothing(clock, screen):
    written = screen(False)
    with Task("count", 10, brief=True) as task:
        clock.now += 14
        task.update(10)
    assert written.getvalue() == ""


def test_what_was_broken_off_is_not_said_to_be_done(clock, screen):
    written = screen(False)
    with pytest.raises(ValueError), Task("train", 10) as task:
        task.update(3)
        raise ValueError
    assert written.getvalue() == ""


def test_a_terminal_shows_a_bar_with_count_time_and_values(screen):
    written = screen(True)
    with Task("train", 10) as task:
        task.update(5, loss=0.25, acc=0.875, asr=0.5)
    shown = written.getvalue()
    for part in ("train", "5/10", "loss 0.25  acc 0.875  asr 0.5", "━"):
        assert part in shown


class Full(io.StringIO):
    """Of a disk without room."""

    def flush(self):
        raise OSError(28, "No space left on device")


class Broken(io.StringIO):
    """A pipe that nobody reads any more."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


@pytest.mark.parametrize("broken", [Full(), Broken(), None, io.StringIO()])
def test_an_output_that_takes_nothing_ends_no_run(broken, monkeypatch):
    monkeypatch.setattr(progress.sys, "stdout", broken)
    if type(broken) is io.StringIO:
        broken.close()
    screen = progress._Screen(highlight=False, soft_wrap=True)
    monkeypatch.setattr(progress, "console", screen)
    for _ in range(2):
        screen.print("a line")
    if type(broken) is not io.StringIO:
        with Task("train", 2) as task:
            task.update(2)
