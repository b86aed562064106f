"""The smallest experiment: every step takes seconds."""

from pathlib import Path

import yaml

SMALL = {"embed_dim": 32, "depth": 1, "num_heads": 2, "epochs": 1}
TINY = {
    "experiment": "tiny",
    "encode": {"toy_faces": 140, "num_views": 3, "img_size": 32},
    "train": [
        SMALL | {"approach": "scratch", "strategy": "full"},
        SMALL | {"approach": "scratch", "strategy": "gradual", "depth": 2, "epochs": 2, "lr": 1e-3},
        {
            "approach": "hybrid",
            "strategy": "adapter",
            "pretrained": "mae",
            "mae_epochs": 1,
            "epochs": 1,
        },
        {
            "approach": "image",
            "strategy": "full",
            "model_name": "resnet18",
            "image_size": 32,
            "epochs": 1,
        },
    ],
    "explain": {"num_faces": 20, "shots": 2, "repeats": 1},
}
TINY_STUDENT = {
    "toy_people": 20,
    "toy_size": 32,
    "image_size": 32,
    "batch_size": 4,
    "epochs": 1,
    "seeds": 1,
    "teacher": "toy",
    "detector": "toy",
    "teacher_epochs": 1,
    "detector_epochs": 1,
    "teacher_encoder": "resnet18",
    "student_encoder": "mobilenet_v2",
    "student_decoder": "slim",
}


def write_config(folder: Path, **changes: object) -> Path:
    """`tiny.yaml` in `folder`, for an experiment that writes there: TINY with `changes`."""
    content = (
        TINY | {"reports": str(folder / "reports"), "data_dir": str(folder / "data")} | changes
    )
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content))
    return path
