"""Run TensorFlow Lite models by LiteRT, from several threads."""

import threading
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.runtime import display_path


class TFLiteModel:
    """A model of one input: `model(sample)` → its outputs, the largest first.

    Each thread that calls it has an interpreter of its own, with one CPU thread.

    Args:
        input_shape: of one sample, without the batch dimension.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or its model has another input.
    """

    def __init__(self, path: Path, input_shape: tuple[int, ...]) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"{display_path(path)}: no such file; run `make weights`")
        self._content = path.read_bytes()
        self._local = threading.local()
        problem = f"expected a TensorFlow Lite model that takes {input_shape}, but it fails"
        with explain_read_error(path, problem, "remove it and run `make weights`"):
            self(np.zeros(input_shape))

    def __call__(self, sample: np.ndarray) -> list[np.ndarray]:
        """One sample of `input_shape` → the outputs for it, without the batch dimension."""
        if not hasattr(self._local, "interpreter"):
            self._local.interpreter = Interpreter(model_content=self._content, num_threads=1)
            self._local.interpreter.allocate_tensors()
        interpreter = self._local.interpreter
        [details] = interpreter.get_input_details()
        interpreter.set_tensor(details["index"], sample[None].astype(np.float32))
        interpreter.invoke()
        outputs = [interpreter.get_tensor(o["index"])[0] for o in interpreter.get_output_details()]
        return sorted(outputs, key=np.size, reverse=True)
