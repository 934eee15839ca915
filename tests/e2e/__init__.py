"""The product as a user meets it: the command, the wheel, the documents."""
