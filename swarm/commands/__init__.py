"""The command line: what each command takes, does and shows. What nodes do belongs to the other rooms."""
