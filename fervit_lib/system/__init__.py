"""Runtime, files, locks and processes: the ground floor that all other modules use."""
