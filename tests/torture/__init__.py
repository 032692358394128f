"""`make torture`: what a run, a grader or a reader must survive, done to each of them many times.

`python -m tests.torture --help` lists the numbers; docs/runs.md says what is done. Each file does one thing to them.
"""
