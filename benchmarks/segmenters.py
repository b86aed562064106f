"""Teacher and students on one image: time in each runtime, in turns in one run, and where it goes.

    .venv/bin/python benchmarks/segmenters.py [--image-size 640] [--repeats 15] [--operators]

The models have random weights: these do not change the time. A ratio counts between equal runtimes; `--operators` shows
what each kind of operation takes in torch and in ONNX Runtime.
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


def torch_operators(model: nn.Module, images: torch.Tensor) -> Counter[str]:
    """Milliseconds of a pass by operator."""
    with torch.inference_mode():
        model(images)
        with profile(activities=[ProfilerActivity.CPU]) as found:
            for _ in range(PASSES):
                model(images)
    return Counter({e.key: e.self_cpu_time_total / 1000 / PASSES for e in found.key_averages()})


def onnx_operators(path: Path, images: torch.Tensor) -> Counter[str]:
    """Milliseconds of a pass by operator, in the graph as ONNX Runtime optimised it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.enable_profiling, options.profile_file_prefix = True, str(path.with_suffix(""))
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for _ in range(PASSES):
        session.run(None, {"images": images.numpy()})
    events = json.loads(Path(session.end_profiling()).read_text())
    found: Counter[str] = Counter()
    for event in events:
        if event["name"].endswith("_kernel_time"):
            found[event["args"]["op_name"]] += event["dur"] / 1000 / PASSES
    return found


def print_operators(models: Mapping[str, nn.Module], folder: Path, size: int) -> None:
    images = torch.zeros(1, 3, size, size)
    files = {name: folder / f"{number}.onnx" for number, name in enumerate(models)}
    tables = {
        "torch": {name: torch_operators(model.cpu(), images) for name, model in models.items()},
        "ONNX Runtime": {name: onnx_operators(path, images) for name, path in files.items()},
    }
    for name, found in tables.items():
        table = pd.DataFrame(found).fillna(0.0)
        first = table.columns[0]
        shares = {f"{model} %": 100 * column / column.sum() for model, column in table.items()}
        table = table.assign(**shares).sort_values(first, ascending=False).head(12)
        print(
            f"\n{name}, ms of a pass by operator, on the CPU\n{table.to_string(float_format='{:.1f}'.format)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--operators", action="store_true")
    arguments = parser.parse_args()
    device = runtime.get_device()
    runtime.seed_everything(0)
    models = {
        "teacher": segmentation.build_segmenter(segmentation.TEACHER_ENCODER).eval(),
        "student": segmentation.build_segmenter().eval(),
        "slim student": segmentation.build_segmenter(decoder="slim").eval(),
    }
    print(f"{arguments.image_size} pixels, batch 1, {runtime.describe_device(device)}")
    with tempfile.TemporaryDirectory() as folder:
        sizes = evaluation.measure_segmenters(
            models, Path(folder), arguments.image_size, device, repeats=arguments.repeats
        )
        for name, ms in sizes.loc[sizes["model"] == "teacher", ["runtime", "ms"]].itertuples(
            index=False
        ):
            sizes[f"x teacher in {name}"] = ms / sizes["ms"]
        print(
            sizes.rename(columns={"speedup": "like with like"}).to_string(
                index=False, float_format="{:.2f}".format
            )
        )
        if arguments.operators:
            print_operators(models, Path(folder), arguments.image_size)


if __name__ == "__main__":
    main()
