"""`python -m invochain.cli`."""

from invochain.cli import main

main()
