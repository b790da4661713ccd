"""How far the training is: a bar on a terminal, a line now and then elsewhere."""

import os
import sys
import time

from tqdm import tqdm

from vit.terminal import say

SECONDS_BETWEEN_LINES = 15


def has_width() -> bool:
    """Whether stderr is a terminal that a bar fits on (some have no width)."""
    return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0


class Progress:
    """Loss, accuracy, images/s and time left of a training of `steps` steps, `per_epoch` to an epoch."""

    def __init__(self, done: int, steps: int, per_epoch: int) -> None:
        self.steps, self.per_epoch = steps, per_epoch
        self.first, self.started = done, time.monotonic()
        self.last_line = self.started
        self.bar = tqdm(
            initial=done,
            total=steps,
            unit="step",
            disable=not has_width(),
            bar_format="{percentage:3.0f} % {bar} {elapsed}, {remaining} left{postfix}",
        )

    def advance(self, step: int) -> None:
        self.bar.update(step - self.bar.n)

    def show(self, step: int, loss: float, acc: float, images_per_second: float) -> None:
        now = time.monotonic()
        figures = f"epoch {step / self.per_epoch:.2f} of {self.steps / self.per_epoch:g}, loss {loss:.3f}, "
        figures += f"accuracy {acc:.1%}, {images_per_second:.0f} images/s"
        self.bar.set_postfix_str(figures)
        if self.bar.disable and now - self.last_line >= SECONDS_BETWEEN_LINES:
            left = (now - self.started) / (step - self.first) * (self.steps - step)
            say(f"{figures}, {tqdm.format_interval(left)} left")
            self.last_line = now

    def line(self, text: str) -> None:
        """A line that stays, above the bar."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        self.bar.close()
