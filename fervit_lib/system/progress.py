"""The one progress bar: rate and time left of everything that takes longer than a moment."""

from functools import partial

from tqdm.auto import tqdm

# As tqdm, over items or told of its steps by `update`. In a notebook or on a terminal, after a second; silent in a log,
# where nobody watches. Units are written with a space before, as they stand behind a number: " faces".
progress = partial(tqdm, delay=1.0, disable=None, dynamic_ncols=True)
