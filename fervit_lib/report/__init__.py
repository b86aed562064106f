"""Executed notebooks and experiments as HTML pages that need only a browser, not a network.

Nothing is imported here: a step that a warm process executes should not wait for an import.
"""
