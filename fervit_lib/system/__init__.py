"""Runtime, files, locks and processes: what every floor above uses."""
