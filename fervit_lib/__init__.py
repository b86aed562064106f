"""FER-ViT Lab: Vision Transformers over StyleGAN codes for facial expression recognition."""

import os

# Before ONNX Runtime is imported anywhere, else it reports to its maker; 0 allows it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
