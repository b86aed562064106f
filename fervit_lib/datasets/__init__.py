"""Labelled faces and person photographs from disk, both also drawn by code; the audit of a set."""

from fervit_lib.datasets.action_units import EMOTIONS
from fervit_lib.datasets.alignment import FaceCrop, face_crop, ffhq_crop, find_faces
from fervit_lib.datasets.audit import audit_faces
from fervit_lib.datasets.coco import IGNORE
from fervit_lib.datasets.content import (
    content_seeds,
    digest_source,
    hash_faces,
    longest_side,
    manifest_path,
    sample_by_content,
)
from fervit_lib.datasets.face_dataset import FaceDataset, few_shot_mask, stratified_mask
from fervit_lib.datasets.faces import load_faces, load_splits
from fervit_lib.datasets.fer_plus import load_votes, majority_labels, soft_labels, votes_path
from fervit_lib.datasets.people import PeopleDataset, load_people, resize_image_and_mask
from fervit_lib.datasets.skipped import NO_FACE, list_skipped
from fervit_lib.datasets.splits import SPLITS, Protocol, describe_splits, move_to_train, val_mask
from fervit_lib.datasets.toy_faces import draw_toy_faces, toy_face
from fervit_lib.datasets.toy_people import draw_toy_people
