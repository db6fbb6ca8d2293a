"""Boards whose tool is Vivado: packaged IP, block designs, projects, and access through PYNQ."""
