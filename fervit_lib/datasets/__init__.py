"""Labelled faces from disk, faces drawn by code, and the audit of a set."""

from fervit_lib.datasets.action_units import EMOTIONS
from fervit_lib.datasets.audit import Audit, audit_faces
from fervit_lib.datasets.faces import PRIVATE_TEST, SPLITS, FaceDataset, few_shot_mask, load_faces, stratified_mask
from fervit_lib.datasets.fer_plus import majority, vote_shares, votes_on, votes_path
from fervit_lib.datasets.toy_faces import toy_face
from fervit_lib.datasets.toy_set import draw_toy_faces

__all__ = [
    "EMOTIONS",
    "PRIVATE_TEST",
    "SPLITS",
    "Audit",
    "FaceDataset",
    "audit_faces",
    "draw_toy_faces",
    "few_shot_mask",
    "load_faces",
    "majority",
    "stratified_mask",
    "toy_face",
    "vote_shares",
    "votes_on",
    "votes_path",
]
