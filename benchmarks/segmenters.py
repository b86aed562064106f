"""Latency of teacher and students for one image in each runtime, all measured in one run.

    .venv/bin/python benchmarks/segmenters.py [--image-size 640] [--repeats 15] [--operators]

The models have random weights, which do not change the time. Compare models in the same runtime;
`--operators` shows the time of each operator in torch and in ONNX Runtime.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import onnxruntime
import pandas as pd
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from fervit_lib import evaluation
from fervit_lib.models import segmentation
from fervit_lib.system import runtime

PASSES = 5


def profile_torch(model: nn.Module, images: torch.Tensor) -> Counter[str]:
    """Milliseconds per forward pass by operator."""
    with torch.inference_mode():
        model(images)  # warm-up
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(PASSES):
                model(images)
    events = profiler.key_averages()
    return Counter({event.key: event.self_cpu_time_total / 1000 / PASSES for event in events})


def profile_onnx(path: Path, images: torch.Tensor) -> Counter[str]:
    """Milliseconds per forward pass by operator of the graph that ONNX Runtime optimised."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_profiling = True
    options.profile_file_prefix = str(path.with_suffix(""))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for _ in range(PASSES):
        session.run(None, {"images": images.numpy()})
    times: Counter[str] = Counter()
    for event in json.loads(Path(session.end_profiling()).read_text()):
        if event["name"].endswith("_kernel_time"):
            times[event["args"]["op_name"]] += event["dur"] / 1000 / PASSES
    return times


def print_operators(models: Mapping[str, nn.Module], folder: Path, size: int) -> None:
    """Print the 12 slowest operators of the first model, beside the other models' times."""
    images = torch.zeros(1, 3, size, size)
    # As `measure_segmenters` names the files.
    files = {name: folder / f"{number}.onnx" for number, name in enumerate(models)}
    runtimes = {
        "torch": {name: profile_torch(model.cpu(), images) for name, model in models.items()},
        "ONNX Runtime": {name: profile_onnx(path, images) for name, path in files.items()},
    }
    for name, times in runtimes.items():
        table = pd.DataFrame(times).fillna(0.0)
        first = table.columns[0]
        shares = {f"{model} %": 100 * column / column.sum() for model, column in table.items()}
        table = table.assign(**shares).sort_values(first, ascending=False).head(12)
        print(f"\n{name}, ms per forward pass by operator, on the CPU")
        print(table.to_string(float_format="{:.1f}".format))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--operators", action="store_true")
    arguments = parser.parse_args()
    size = arguments.image_size
    device = runtime.get_device()
    runtime.seed_everything(0)
    models = {
        "teacher": segmentation.build_segmenter(segmentation.TEACHER_ENCODER).eval(),
        "student": segmentation.build_segmenter().eval(),
        "slim student": segmentation.build_segmenter(decoder="slim").eval(),
    }
    print(f"{size} pixels, batch 1, {runtime.describe_device(device)}")
    with tempfile.TemporaryDirectory() as folder:
        sizes = evaluation.measure_segmenters(
            models, Path(folder), size, device, repeats=arguments.repeats
        )
        teacher = sizes[sizes["model"] == "teacher"]
        for name, ms in zip(teacher["runtime"], teacher["ms"], strict=True):
            sizes[f"x teacher in {name}"] = ms / sizes["ms"]
        table = sizes.rename(columns={"speedup": "x teacher in same runtime"})
        print(table.to_string(index=False, float_format="{:.2f}".format))
        if arguments.operators:
            print_operators(models, Path(folder), size)


if __name__ == "__main__":
    main()
