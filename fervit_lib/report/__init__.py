"""Executed notebooks and experiments as HTML pages that need only a browser, not a network."""

from fervit_lib.report.index import write_index
from fervit_lib.report.page import write_page
from fervit_lib.report.run import describe_failure, describe_failures, forget_failures, run_notebook
