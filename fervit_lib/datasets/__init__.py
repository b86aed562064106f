"""Labelled faces and person photographs from disk, both drawn by code, and the audit of a set."""

from fervit_lib.datasets.action_units import EMOTIONS
from fervit_lib.datasets.alignment import FaceCrop, dlib_detector, face_crop, ffhq_crop
from fervit_lib.datasets.audit import Audit, audit_faces
from fervit_lib.datasets.faces import (
    PRIVATE_TEST,
    SPLITS,
    FaceDataset,
    few_shot_mask,
    load_faces,
    move_to_train,
    stratified_mask,
)
from fervit_lib.datasets.fer_plus import majority, vote_shares, votes_on, votes_path
from fervit_lib.datasets.people import IGNORE, RESIZE, PeopleDataset, load_people, resize_picture
from fervit_lib.datasets.toy_faces import draw_toy_faces, toy_face
from fervit_lib.datasets.toy_people import draw_toy_people, toy_person
