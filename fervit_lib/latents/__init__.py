"""StyleGAN `w+` codes on disk, in shards."""

from fervit_lib.latents.shards import (
    BANDS,
    LATENT_DIM,
    NUM_LAYERS,
    SHARD_SIZE,
    layer_bands,
    read_fingerprint,
    read_shard,
    shard_fingerprint,
    write_shard,
)
from fervit_lib.latents.store import (
    RESULT,
    LatentStore,
    complete_store,
    find_store,
    read_store,
    store_identity,
    store_path,
    view_split,
)
from fervit_lib.system.shards import shard_path
