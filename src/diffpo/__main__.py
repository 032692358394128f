"""`python -m diffpo`."""

from diffpo.cli import main

main()
