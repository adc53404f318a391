"""report.html: what a run did, drawn for a person, in one file that asks the network for nothing.

Imported only by who writes a report: vesalius.train does not load it, and training never waits for it.
"""

from vesalius.train.report.page import write_report

__all__ = ["write_report"]
