"""Fixed inputs with their expected outputs, which other implementations can use too."""
