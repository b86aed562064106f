"""The content of faces: a hash of each face's bytes, remembered until its file changes.

Codes, pixels and random views of a face are keyed by its content, so that a picture that is
replaced under its name is read again, and nothing depends on a face's position in its set.
"""

import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from xxhash import xxh3_128_digest

from fervit_lib.datasets.face_dataset import FaceDataset
from fervit_lib.system.atomic import atomic_write
from fervit_lib.system.prefetch import PrefetchPool

# The content of a file is known by its size, mtime_ns, ctime_ns and inode: ctime changes with any
# write or rename, even if a tool sets mtime back.
_RECORD = np.dtype([("stat", "<i8", 4), ("hash", "u1", 16)])
_MULTIPLIERS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 1], np.uint64)
# A file may change again within one step of its file system's clock (2 s on FAT): younger ones are
# hashed again next time.
SETTLED_NS = 2_000_000_000
MAX_RECORDS = 1 << 21  # 100 MB; of more, earlier ones are dropped
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
    known = _read_manifest(manifest)
    added: list[np.ndarray] = []
    hashes = np.empty((len(faces), 16), np.uint8)
    with PrefetchPool() as pool:
        for start in range(0, len(faces), BLOCK):
            rows = range(start, min(start + BLOCK, len(faces)))
            hashes[rows], new = _hash_files([faces.file(row) for row in rows], known, pool)
            added.append(new)
    if any(map(len, added)):
        # Faces on a read-only disk can be used: they are hashed each time.
        with suppress(OSError):
            _write_manifest(manifest, np.concatenate([_read_manifest(manifest), *added]))
    if faces.boxes is not None:
        pairs = zip(hashes, faces.boxes.astype("<i8"), strict=True)
        hashes = _to_array([xxh3_128_digest(h.tobytes() + box.tobytes()) for h, box in pairs])
    return hashes


def content_seeds(hashes: np.ndarray) -> list[int]:
    """A random seed of each face, from the hash of its content (N, 16)."""
    return (np.ascontiguousarray(hashes[:, :8]).view("<u8")[:, 0] >> 1).tolist()


def sample_by_content(hashes: np.ndarray, number: int) -> np.ndarray:
    """Indices, ascending, of up to `number` random faces.

    Whether a face is in the sample hardly depends on the others.
    """
    return np.sort(np.argsort(content_seeds(hashes), kind="stable")[:number])


def _hash_files(
    files: list[Path], known: np.ndarray, pool: PrefetchPool
) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (n, 16) of files, and records of those that were not known before."""
    now = time.time_ns()
    stats = np.array([_stat(file) for file in files])  # before the files are read
    hashes = np.empty((len(files), 16), np.uint8)
    is_known = np.zeros(len(files), bool)
    if len(known):
        place = np.searchsorted(_keys(known["stat"]), _keys(stats)).clip(max=len(known) - 1)
        is_known = (known["stat"][place] == stats).all(1)
        hashes[is_known] = known["hash"][place[is_known]]
    unknown = np.flatnonzero(~is_known)
    if not len(unknown):
        return hashes, np.empty(0, _RECORD)
    # A picture with several faces is read once.
    _, first, inverse = np.unique(stats[unknown], axis=0, return_index=True, return_inverse=True)
    read = unknown[first]
    digests = list(pool.map(_hash_file, [files[row] for row in read], str))
    hashes[unknown] = _to_array(digests)[inverse.ravel()]
    settled = read[stats[read, 1:3].max(1) < now - SETTLED_NS]
    new = np.empty(len(settled), _RECORD)
    new["stat"], new["hash"] = stats[settled], hashes[settled]
    return hashes, new


def _stat(file: Path) -> tuple[int, int, int, int]:
    try:
        state = file.stat()
    except OSError as error:
        raise OSError(f"{file}: cannot be read as an image ({error})") from error
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino


def _hash_file(file: Path) -> bytes:
    try:
        with file.open("rb", buffering=0) as opened:
            return xxh3_128_digest(opened.read())
    except OSError as error:
        raise OSError(f"{file}: cannot be read as an image ({error})") from error


def _to_array(digests: list[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16)


def _keys(stats: np.ndarray) -> np.ndarray:
    """One number per state of a file, to search by."""
    return (stats.astype(np.uint64) * _MULTIPLIERS).sum(1)


def _read_manifest(path: Path) -> np.ndarray:
    """The records, by ascending key; none if the manifest is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    checksum, records = content[:16], content[16:]
    if len(records) % _RECORD.itemsize or xxh3_128_digest(records) != checksum:
        return np.empty(0, _RECORD)
    return np.frombuffer(records, _RECORD)


def _write_manifest(path: Path, records: np.ndarray) -> None:
    records = records[-MAX_RECORDS:]
    content = records[np.argsort(_keys(records["stat"]), kind="stable")].tobytes()
    with atomic_write(path) as temporary:
        temporary.write_bytes(xxh3_128_digest(content) + content)
