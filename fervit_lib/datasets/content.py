"""The content of faces: a hash of each face's bytes, remembered until its file changes.

Codes, pixels and random views of a face are keyed by its content, so that a picture that is
replaced under its name is read again, and nothing depends on a face's position in its set.
"""

import hashlib
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_intdigest, xxh3_128, xxh3_128_digest

from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.datasets.image_files import is_ignored
from fervit_lib.system.atomic import atomic_write
from fervit_lib.system.identity import digest
from fervit_lib.system.prefetch import PrefetchPool

# The content of a file is known by a hash of its size, mtime_ns, ctime_ns and inode: ctime changes
# with any write or rename, even if a tool sets mtime back.
_RECORD = np.dtype([("state", "<u8"), ("hash", "u1", 16)])
# A file may change again within one step of its file system's clock (2 s on FAT): younger ones are
# hashed again next time.
SETTLED_NS = 2_000_000_000
MAX_RECORDS = 1 << 21  # 50 MB; of more, earlier ones are dropped
BLOCK = 4096  # files whose states are compared at once


def manifest_path(store: Path) -> Path:
    """The file with the hashes of the faces in the store of codes `store`.

    It lies beside the store, so that all stores of a data set share it.
    """
    return store.absolute().parent / ".face-hashes"


def hash_faces(faces: FaceDataset, manifest: Path) -> np.ndarray:
    """XXH3-128 of each face: of its file and box, or of its pixels in a table; (N, 16) uint8.

    Args:
        manifest: hashes of files that have not changed since. It is written if it can be.

    Raises:
        OSError: a file is missing or cannot be read; names it.
        TimeoutError: a file hangs.
    """
    if faces.pixels is not None:
        return _to_array([xxh3_128_digest(row) for row in faces.pixels])
    hashes = hash_files(map(faces.file, range(len(faces))), manifest)
    if faces.boxes is not None:
        pairs = zip(hashes, faces.boxes.astype("<i8"), strict=True)
        hashes = _to_array([xxh3_128_digest(h.tobytes() + box.tobytes()) for h, box in pairs])
    return hashes


def hash_files(files: Iterable[Path], manifest: Path) -> np.ndarray:
    """XXH3-128 of the bytes of each file, (N, 16) uint8; see `hash_faces`."""
    known = _read_manifest(manifest)
    files = iter(files)
    added = []
    hashes = [np.empty((0, 16), np.uint8)]
    with PrefetchPool() as pool:
        while block := list(islice(files, BLOCK)):
            now = time.time_ns()
            stats = [file.stat() for file in block]  # before the files are read
            dates = np.array([(stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats])
            states = np.array([_state(stat) for stat in stats], np.uint64)
            # A picture with several faces is read once.
            unique, first, inverse = np.unique(states, return_index=True, return_inverse=True)
            records = np.empty(len(unique), _RECORD)
            records["state"] = unique
            place = np.searchsorted(known["state"], unique)
            is_known = np.append(known["state"], np.uint64(0))[place] == unique
            records[is_known] = known[place[is_known]]
            digests = list(pool.map(_hash_file, [block[row] for row in first[~is_known]], str))
            records["hash"][~is_known] = _to_array(digests)
            hashes.append(records["hash"][inverse])
            is_settled = dates[first].max(1) < now - SETTLED_NS
            added.append(records[~is_known & is_settled])
    if any(map(len, added)):
        # Faces on a read-only disk can be used: they are hashed each time.
        with suppress(OSError):
            _write_manifest(manifest, np.concatenate([_read_manifest(manifest), *added]))
    return np.concatenate(hashes)


def digest_source(source: Path, manifest: Path) -> str:
    """Hash of the names and contents of a file and the tables beside it, or of a folder's files.

    Args:
        manifest: see `hash_faces`.
    """
    files = [source, *set(source.parent.glob("*.csv")) - {source}]
    if source.is_dir():
        walk = os.walk(source, followlinks=True)
        files = [Path(folder, name) for folder, _, names in walk for name in names]
    # A link to nowhere is for the step to refuse, which says more.
    files = sorted(f for f in files if f.exists() and not is_ignored(f.relative_to(source.parent)))
    names = [str(file.relative_to(source.parent)) for file in files]
    return digest(names, hash_files(files, manifest).tobytes().hex())


def longest_side(faces: FaceDataset, manifest: Path) -> int:
    """The longest side in pixels of up to 256 faces, which are chosen by their content."""
    sample = sample_by_content(hash_faces(faces, manifest), 256)
    return max(max(faces[index][0].size) for index in sample)


def content_seeds(hashes: np.ndarray) -> list[int]:
    """A random seed of each face, from the hash of its content (N, 16)."""
    return (np.ascontiguousarray(hashes[:, :8]).view("<u8")[:, 0] >> 1).tolist()


def sample_by_content(hashes: np.ndarray, number: int) -> np.ndarray:
    """Indices, ascending, of up to `number` random faces.

    Whether a face is in the sample hardly depends on the others.
    """
    return np.sort(np.argsort(content_seeds(hashes), kind="stable")[:number])


def _state(stat: os.stat_result) -> int:
    state = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
    return xxh3_64_intdigest(repr(state).encode())


def _hash_file(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, xxh3_128).digest()


def _to_array(digests: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


def _read_manifest(path: Path) -> np.ndarray:
    """The records, by ascending state; none if the manifest is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    checksum, records = content[:16], content[16:]
    if len(records) % _RECORD.itemsize or xxh3_128_digest(records) != checksum:
        return np.empty(0, _RECORD)
    return np.frombuffer(records, _RECORD)


def _write_manifest(path: Path, records: np.ndarray) -> None:
    content = np.sort(records[-MAX_RECORDS:], order="state").tobytes()
    with atomic_write(path) as temporary:
        temporary.write_bytes(xxh3_128_digest(content) + content)
