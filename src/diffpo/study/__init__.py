"""Studies: arms x tasks x seeds, a JSON line for each finished run, tables and figures from the lines alone.

`plan` says which runs there are and refuses what cannot run, `lines` keeps the results, `arms` and `likelihood` carry
out one run, `harness` carries out what is missing, `summary` makes figures of lines, `report` and `charts` show them.
"""
