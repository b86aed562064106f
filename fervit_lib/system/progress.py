"""The progress bar of every long loop, with rate and time left."""

from functools import partial

from tqdm.auto import tqdm

# Used as tqdm is. It appears after one second, in a notebook or on a terminal, and never in a log
# file. Pass units with a leading space, because they follow a number: `unit=" faces"`.
progress = partial(tqdm, delay=1.0, disable=None, dynamic_ncols=True)
