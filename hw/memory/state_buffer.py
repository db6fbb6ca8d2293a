"""Attention states: the linear attention unit writes them, the MAC array reads them in place of weights."""

from amaranth import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from hw.config import AcceleratorConfig
from hw.interfaces import StateRead, StateWrite
from hw.memory.ram import Ram

__all__ = ["StateBuffer"]


class StateBuffer(wiring.Component):
    """`state_tiles` tiles of Ti x To elements, laid out as weight tiles of the matmul stream.

    Every cycle takes one write of `lanes` elements and one read of a stream word. Data stands on `read.data` in the
    cycle after `read.enable` and holds until the next read. A read sees the writes of earlier cycles; what is written
    in the same cycle returns anything.

    Members: `write` : StateWrite, and `read` : StateRead, both from the buffer's side.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__({"write": In(StateWrite(config)), "read": In(StateRead(config))})

    def elaborate(self, platform: object) -> Module:
        m = Module()

        config, lanes = self._config, len(self.write.data)
        word_bits, lane_bits = config.stream_bits, lanes * config.operand_bits
        depth = config.state_tiles * config.tile_words
        m.submodules.memory = memory = Ram(width=word_bits, depth=depth, granularity=lane_bits)

        # All sizes are powers of two: an element's address is [tile][word][lane group][lane].
        groups = word_bits // lane_bits
        lane_index, group_index = (lanes - 1).bit_length(), (groups - 1).bit_length()
        word_index = (config.tile_words - 1).bit_length()
        group, word = self.write.element[lane_index:][:group_index], self.write.element[lane_index + group_index :]
        m.d.comb += [
            memory.write_address.eq(Cat(word[:word_index], self.write.tile)),
            memory.write_data.eq(self.write.data.as_value().replicate(groups)),
            memory.write_enable.eq(self.write.valid << group),
            memory.read_address.eq(Cat(self.read.word[:word_index], self.read.tile)),
            memory.read_enable.eq(self.read.enable),
            self.read.data.eq(memory.read_data),
        ]
        return m
