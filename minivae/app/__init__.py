"""The command line: run folders (runs.py), what each command does (commands.py), its arguments and errors (cli.py)."""
