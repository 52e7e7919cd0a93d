"""The programs: flags in, exit codes out; each is a function too."""
