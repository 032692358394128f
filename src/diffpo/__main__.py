"""`python -m diffpo`."""

from diffpo.cli.main import main

main()
