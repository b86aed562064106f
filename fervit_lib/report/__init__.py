"""Executed notebooks and whole experiments as HTML pages that need nothing but a browser: no network, no server."""

from fervit_lib.report.index import write_index
from fervit_lib.report.page import write_page
from fervit_lib.report.run import describe_failure, describe_failures, forget_failures, run_notebook
