"""The command line: what each command takes, does and shows. What nodes do for themselves belongs to the other rooms."""
