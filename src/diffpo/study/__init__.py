"""Studies: arms x tasks x seeds, a result (a JSON line) for each finished run, tables and figures from the results.

`plan` lists the runs and refuses those that cannot run, `results` keeps the results, `arms` and `likelihood` do one
run, `harness` does the missing ones, by `jobs` in processes of their own, `summary` computes figures from results,
`report` and `charts` show them.
"""
