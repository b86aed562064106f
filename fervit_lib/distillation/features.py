"""Features of a detector: any tensor of an ONNX file."""

import difflib
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor

from fervit_lib.models.segmentation import denormalise
from fervit_lib.system.checkpoints import content_key
from fervit_lib.system.errors import explain_read_error
from fervit_lib.system.runtime import display_path, resolve

GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider")


class OnnxFeatures:
    """Compute one tensor of an ONNX graph from images.

    The graph is cut at the tensor, so that nothing after it is computed. Tensors are passed to ONNX
    Runtime by DLPack and IO binding: without a copy on a CPU, and without leaving a GPU.

    Args:
        path: the ONNX file, a graph of images (B, 3, S, S) in [0, 1].
        tensor: name of any tensor in the graph; it does not have to be an output.
        device: of the images and the features.

    Attributes:
        key: hash of the graph up to `tensor` with its weights, wherever they are stored.
        providers: ONNX Runtime's execution providers in use.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not ONNX, has no such tensor (the message lists others) or has
            another input than images.
    """

    def __init__(self, path: str | Path, tensor: str, device: torch.device) -> None:
        self.path = resolve(path)
        self.tensor = tensor
        self.device = device
        name = display_path(self.path)
        if not self.path.is_file():
            raise FileNotFoundError(
                f"{name}: no detector there; place the ONNX file, or name another as `detector`"
            )
        # ONNX Runtime cannot run on torch's default stream.
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        with explain_read_error(self.path, "cannot be read as ONNX", "download it again"):
            # With the weights that lie in files beside it.
            graph = cut_graph(self.path, tensor).SerializeToString(deterministic=True)
            self.session = onnxruntime.InferenceSession(
                graph, options, providers=self._available_providers()
            )
        self.key = content_key(graph, tensor.encode())
        self.providers = self.session.get_providers()
        [graph_input] = self.session.get_inputs()
        self.input = graph_input.name
        self.shape = graph_input.shape
        if len(self.shape) != 4:
            raise ValueError(f"{name}: expected images (B, 3, S, S) as input, got {self.shape}")

    def _available_providers(self) -> list:
        """TensorRT and CUDA where installed, if `device` is a GPU; then the CPU."""
        cpu = ["CPUExecutionProvider"]
        if self.stream is None:
            return cpu
        on_gpu = {
            "device_id": str(self.device.index or 0),
            "user_compute_stream": str(self.stream.cuda_stream),
        }
        installed = onnxruntime.get_available_providers()
        return [(name, on_gpu) for name in GPU_PROVIDERS if name in installed] + cpu

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Compute the features of a batch.

        Args:
            images: (B, 3, S, S), normalised as for ImageNet.

        Returns:
            (B, C, h, w) float32 on `device`.

        Raises:
            ValueError: the graph takes images of another size.
        """
        for side, expected in zip(images.shape[1:], self.shape[1:], strict=True):
            if isinstance(expected, int) and side != expected:  # a free dimension is a name
                raise ValueError(
                    f"images: {display_path(self.path)} takes (B, 3, S, S) of {self.shape[1:]}, "
                    f"got {tuple(images.shape)}; set image_size accordingly"
                )
        images = denormalise(images.to(self.device)).contiguous()
        fixed_batch = self.shape[0]
        step = fixed_batch if isinstance(fixed_batch, int) else len(images)
        return torch.cat([self._run(part) for part in images.split(step)])

    def _run(self, images: Tensor) -> Tensor:
        if self.stream is None:
            return self._bind_and_run(images)
        # Each stream waits for the other's work on the tensors that they share.
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            features = self._bind_and_run(images)
        current.wait_stream(self.stream)
        images.record_stream(self.stream)
        return features.clone()  # ONNX Runtime may reuse its own memory

    def _bind_and_run(self, images: Tensor) -> Tensor:
        binding = self.session.io_binding()
        binding.bind_ortvalue_input(self.input, onnxruntime.OrtValue.from_dlpack(images))
        binding.bind_output(self.tensor, self.device.type, self.device.index or 0)
        self.session.run_with_iobinding(binding)
        return torch.from_dlpack(binding.get_outputs()[0])


def cut_graph(path: Path, tensor: str) -> onnx.ModelProto:
    """The part of an ONNX graph that computes `tensor` from the input, of less than 2 GB.

    Asking ONNX Runtime for a middle tensor of the whole graph would compute all of it.

    Raises:
        ValueError: the graph has no such tensor, or several inputs.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    graph = model.graph
    weights = {value.name for value in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(inputs) or "none"
        raise ValueError(
            f"{display_path(path)}: expected a graph with one input, images, got {names}"
        )
    tensors = [name for node in graph.node for name in node.output]
    infos = {value.name: value for value in (*graph.value_info, *graph.output)}
    if tensor not in tensors:
        similar = difflib.get_close_matches(tensor, infos.keys() & tensors or tensors, 12, cutoff=0)
        show = onnx.helper.printable_value_info
        listed = ", ".join(show(infos[name]) if name in infos else name for name in similar)
        raise ValueError(
            f"tensor: {display_path(path)} has no {tensor!r}; tensors with similar names: {listed}"
        )
    if tensor not in infos:
        # Shape inference does not know the operator: declare the type alone.
        info = onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None)
        graph.value_info.append(info)
    return onnx.utils.Extractor(model).extract_model(inputs, [tensor])
