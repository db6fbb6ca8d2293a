"""Verilator + cocotb simulation of whole networks."""
