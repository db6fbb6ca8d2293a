"""DDR3 memory behind a controller made by LiteDRAM."""
