"""The tool host: what calls may do on this machine, below one folder and in a sandbox. Knows no engines, no votes."""
