"""StyleGAN `w+` codes on disk, in shards."""

from fervit_lib.latents.shards import (
    BANDS,
    LATENT_DIM,
    NUM_LAYERS,
    SHARD_SIZE,
    read_fingerprint,
    read_shard,
    shard_fingerprint,
    write_shard,
)
from fervit_lib.latents.store import (
    LatentStore,
    complete_store,
    read_store,
    store_encoding,
    store_fingerprint,
    view_split,
)
from fervit_lib.system.shards import shard_path
