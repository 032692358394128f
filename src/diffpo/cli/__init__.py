"""The command line: `app` lists the verbs, `*_command(s)` are the verbs, and `main` runs one and sets the exit code."""
