"""The command line: main.py finds the command, one file per group of commands does it."""
