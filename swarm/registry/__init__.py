"""Models as files: names, the catalogue, what a file says, what fits, downloads and copies. Not: running them."""
