"""`python -m ideomotor` is the command `ideomotor`."""

from ideomotor.cli.main import main

main()
