"""Controls for live use in a notebook."""
