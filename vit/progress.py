"""How far the training is: a bar on a terminal, a line now and then elsewhere."""

import os
import sys
import time

from tqdm import tqdm

from vit.stepper import Stepper
from vit.terminal import say

SECONDS_BETWEEN_LINES = 15


def has_width() -> bool:
    """Whether stderr is a terminal that a bar fits on (some have no width)."""
    return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0


class Progress:
    """Loss, accuracy, images/s and time left, by FLOPs, as steps that see a window of each image are shorter."""

    def __init__(self, stepper: Stepper) -> None:
        self.stepper = stepper
        self.first, self.started = stepper.train_flops, time.monotonic()
        self.last_line = self.started
        self.bar = tqdm(
            initial=self.first,
            total=stepper.planned_flops,
            disable=not has_width(),
            bar_format="{percentage:3.0f} % {bar} {elapsed}, {remaining} left{postfix}",
        )

    def advance(self) -> None:
        self.bar.update(self.stepper.train_flops - self.bar.n)

    def show(self, loss: float, acc: float, images_per_second: float) -> None:
        now, stepper = time.monotonic(), self.stepper
        figures = f"epoch {stepper.epoch:.2f} of {stepper.steps / stepper.steps_per_epoch:g}, loss {loss:.3f}, "
        figures += f"accuracy {acc:.1%}, {images_per_second:.0f} images/s"
        self.bar.set_postfix_str(figures)
        if self.bar.disable and now - self.last_line >= SECONDS_BETWEEN_LINES:
            done = stepper.train_flops
            left = (now - self.started) / (done - self.first) * (stepper.planned_flops - done)
            say(f"{figures}, {tqdm.format_interval(left)} left")
            self.last_line = now

    def line(self, text: str) -> None:
        """A line that stays, above the bar."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        self.bar.close()
