"""Pages, figures and tables about runs, evaluations and studies, made from their files alone. Imports no torch.

`found` looks for the files, `reading`, `metrics` and `study_arms` read them, `sources` and `comparing` put together
what belongs together, as the records of `data`. `svg` draws shapes in the styles of `palette`, and `charts` the
pictures; `table` and `sentences` give the figures in text, `playback` shows completions call by call, `page` puts all
on one page, and `write` writes it. `export` writes figures and tables as files.
"""

from diffpo.report.figure_file import standalone
from diffpo.report.frontier_figure import frontier_svg
from diffpo.report.sources import read_run, read_sources
from diffpo.report.table import table_text
from diffpo.report.write import write_report

__all__ = ["frontier_svg", "read_run", "read_sources", "standalone", "table_text", "write_report"]
