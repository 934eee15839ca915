"""The command line: one command, `patchwarden`, whose groups are imported when they are used."""
