"""Features of a detector: any tensor of any ONNX file."""

import difflib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor

from fervit_lib.distillation.cache import content_key
from fervit_lib.models.segmentation import denormalise
from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.runtime import display_path, resolve

DETECTOR = "pretrained_models/yolov9_e_wholebody25_Nx3x640x640_featext_optimized.onnx"
TENSOR = "segmentation_model_34_Concat_output_0"
PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


class OnnxFeatures:
    """Images → one tensor of an ONNX graph, which is cut there: nothing after it is computed.

    Tensors go in and out by DLPack and IO binding, with no copy on a CPU, and on a GPU without leaving it; the session
    runs on a stream of torch's that waits for the current one, and which that one waits for.

    Args:
        path: of the ONNX file. It takes images (B, 3, S, S) in [0, 1].
        tensor: any in its graph, whether or not it is an output.
        device: where images are and features shall be.
        providers: of ONNX Runtime, in order of preference; None: TensorRT, CUDA, CPU as there are for `device`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an ONNX file, no such tensor (with those that fit), or not one input.
    """

    def __init__(
        self,
        path: str | Path,
        tensor: str,
        device: torch.device,
        providers: Sequence[str] | None = None,
    ) -> None:
        self.path, self.tensor, self.device = resolve(path), tensor, torch.device(device)
        if not self.path.is_file():
            raise FileNotFoundError(
                f"{display_path(self.path)}: no detector there; place the ONNX file, or name another as `detector`"
            )
        self.key = content_key(self.path.read_bytes(), tensor.encode())
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        wanted = self._providers(providers or PROVIDERS)
        with (
            explain_read_error(self.path, "cannot be run as ONNX", "download it again"),
            tempfile.TemporaryDirectory() as folder,
        ):
            cut = cut_graph(self.path, tensor, Path(folder) / "cut.onnx")
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = torch.get_num_threads()
            self.session = onnxruntime.InferenceSession(str(cut), options, providers=wanted)
            [given] = self.session.get_inputs()
            self.input, self.shape = given.name, given.shape
            if len(self.shape) != 4:
                raise ValueError(f"its input has shape {self.shape}, expected images (B, 3, S, S)")

    def _providers(self, wanted: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
        there = onnxruntime.get_available_providers()
        if unknown := set(wanted) - set(PROVIDERS):
            raise ValueError(
                f"providers: expected some of {', '.join(PROVIDERS)}, got {', '.join(sorted(unknown))}"
            )
        on_gpu = {} if self.stream is None else {"device_id": str(self.device.index or 0)}
        if self.stream is not None:
            on_gpu["user_compute_stream"] = str(self.stream.cuda_stream)
        kept = [p for p in wanted if p in there and (self.stream is not None or p == PROVIDERS[-1])]
        return [
            (p, {} if p == PROVIDERS[-1] else on_gpu)
            for p in (*kept, *({PROVIDERS[-1]} - set(kept)))
        ]

    @property
    def providers(self) -> list[str]:
        """What runs it, as the session found it."""
        return self.session.get_providers()

    def _check(self, images: Tensor) -> None:
        for side, expected in zip(images.shape[1:], self.shape[1:], strict=True):
            if isinstance(expected, int) and side != expected:
                raise ValueError(
                    f"images: {display_path(self.path)} takes (B, {', '.join(map(str, self.shape[1:]))}), got "
                    f"{tuple(images.shape)}; set image_size to it"
                )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) normalised for ImageNet → (B, C, h, w) float32 on `device`. Raises ValueError on another S."""
        self._check(images)
        images = denormalise(images.to(self.device)).contiguous()
        step = self.shape[0] if isinstance(self.shape[0], int) else len(images)
        parts = [self._run(part) for part in images.split(step)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _run(self, images: Tensor) -> Tensor:
        if self.stream is None:
            return self._bind_and_run(images)
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            found = self._bind_and_run(images)
        current.wait_stream(self.stream)
        images.record_stream(self.stream)
        return found.clone()  # ours: ONNX Runtime may write into its own again

    def _bind_and_run(self, images: Tensor) -> Tensor:
        binding = self.session.io_binding()
        binding.bind_ortvalue_input(self.input, onnxruntime.OrtValue.from_dlpack(images))
        binding.bind_output(self.tensor, self.device.type, self.device.index or 0)
        self.session.run_with_iobinding(binding)
        return torch.from_dlpack(binding.get_outputs()[0])

    def run_by_numpy(self, images: Tensor) -> Tensor:
        """As a call, but by way of numpy and the CPU's memory: what the fast way is compared with."""
        self._check(images)
        found = self.session.run([self.tensor], {self.input: denormalise(images).cpu().numpy()})[0]
        return torch.from_numpy(found).to(self.device)


def cut_graph(path: Path, tensor: str, to: Path) -> Path:
    """Write the part of an ONNX graph that computes `tensor` from its inputs.

    Raises:
        ValueError: not an ONNX file, no such tensor in it, or several inputs.
    """
    try:
        model = onnx.load(path)
        model = onnx.shape_inference.infer_shapes(model)
    except Exception as error:  # protobuf and onnx have an error for every kind of damage
        raise ValueError(
            f"{display_path(path)}: cannot be read as ONNX ({error}); download it again"
        ) from error
    graph = model.graph
    weights = {value.name for value in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise ValueError(
            f"{display_path(path)}: expected a graph with one input, images, got {', '.join(inputs) or 'none'}"
        )
    made = [name for node in graph.node for name in node.output]
    if tensor not in made:
        raise ValueError(_no_tensor(path, tensor, model, made))
    known = {value.name for value in (*graph.value_info, *graph.output)}
    if tensor not in known:  # an operator that shape inference does not know: the type alone
        graph.value_info.append(
            onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None)
        )
    whole = to.with_name("whole.onnx")
    onnx.save(model, whole)
    onnx.utils.extract_model(str(whole), str(to), inputs, [tensor], check_model=False)
    return to


def _no_tensor(path: Path, tensor: str, model: onnx.ModelProto, made: list[str]) -> str:
    """The message of a wrong name: what is like it, and then what is a map of features."""
    shapes = {}
    for value in (*model.graph.value_info, *model.graph.output):
        if value.name in made and len(dims := value.type.tensor_type.shape.dim) == 4:
            shapes[value.name] = "x".join(str(d.dim_value or d.dim_param or "?") for d in dims)
    near = difflib.get_close_matches(tensor, shapes or made, 4, cutoff=0.3)
    fitting = [*near, *(name for name in shapes if name not in near)][:12]
    listed = ", ".join(
        f"{name} ({shapes.get(name, 'shape unknown')})" for name in fitting
    ) or ", ".join(made[-12:])
    return (
        f"tensor: {display_path(path)} has no {tensor!r}; of its {len(made)} tensors {len(shapes)} are feature maps: "
        f"{listed}{', …' if len(shapes) > len(fitting) else ''}"
    )
