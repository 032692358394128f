"""One self-contained HTML page about a run, made from the run's files alone. Imports no torch.

`data` reads the files, `svg` draws shapes and `charts` the pictures, `table` and `sentences` give the figures in text,
`playback` shows completions call by call, and `page` puts all together.
"""

from diffpo.report.charts import frontier_svg
from diffpo.report.data import read_run
from diffpo.report.page import write_report
from diffpo.report.table import summary_table

__all__ = ["frontier_svg", "read_run", "summary_table", "write_report"]
