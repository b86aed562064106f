"""Labelled faces from disk, faces drawn by code, and the audit of a set."""

from fervit_lib.datasets.action_units import EMOTIONS
from fervit_lib.datasets.alignment import FaceCrop, dlib_detector, face_crop, ffhq_crop
from fervit_lib.datasets.audit import Audit, audit_faces
from fervit_lib.datasets.faces import PRIVATE_TEST, SPLITS, FaceDataset, few_shot_mask, load_faces, stratified_mask
from fervit_lib.datasets.toy_faces import toy_face
from fervit_lib.datasets.toy_set import draw_toy_faces

__all__ = [
    "EMOTIONS",
    "PRIVATE_TEST",
    "SPLITS",
    "Audit",
    "FaceCrop",
    "FaceDataset",
    "audit_faces",
    "dlib_detector",
    "draw_toy_faces",
    "face_crop",
    "few_shot_mask",
    "ffhq_crop",
    "load_faces",
    "stratified_mask",
    "toy_face",
]
