"""What happens around a fit: best weights, live curves, frozen parts kept still."""

from collections.abc import Callable

import numpy as np
from fastai.callback.core import Callback
from fastai.callback.tracker import TrackerCallback


class SaveBest(TrackerCallback):
    """Call `save()` whenever `monitor` is better than ever before; remember the epoch."""

    order = 61  # after the Recorder has this epoch's metrics

    def __init__(self, save: Callable[[], None], monitor: str = "macro_f1") -> None:
        super().__init__(monitor=monitor, comp=np.greater)
        self.save = save

    def after_epoch(self) -> None:
        super().after_epoch()
        if self.new_best:
            self.best_epoch = self.epoch
            self.best_values = dict(zip(self.recorder.metric_names[1:-1], self.recorder.log[1:], strict=False))
            self.save()


class KeepFrozenStill(Callback):
    """Hold modules without a trainable parameter in eval mode: frozen norm statistics and dropout do not move."""

    def before_train(self) -> None:
        for module in self.model.modules():
            own = list(module.parameters())
            if own and not any(p.requires_grad for p in own):
                module.eval()
