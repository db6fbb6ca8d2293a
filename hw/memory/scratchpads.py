"""Scratchpads: the memories of feature maps, and who may use them in a cycle."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from hw.config import PADS, AcceleratorConfig
from hw.interfaces import PAD_READ_LATENCY, PadRead, PadWrite
from hw.memory.ram import Ram

__all__ = ["Scratchpads"]


class Scratchpads(wiring.Component):
    """`PADS` memories with one read and one write port each, shared by fixed priority.

    Per pad and cycle the first requester in port order that asks is granted; requests for different pads never meet.
    `ready` is combinational and does not depend on the port's own `valid`. Data comes `PAD_READ_LATENCY` = 3 cycles
    after the grant: registers of the request, as it is a long way to the blocks of a memory; the memory; its output
    register; then a multiplexer of pads in the cycle of use. Writes pass registers, too: a word written in cycle t is
    read by requests granted in t + 1. Beyond the end of a pad, reads return anything and writes are dropped. (Engines
    calculate addresses modulo the size of the largest pad, rounded up to a power of two.)

    Parameters
    ----------
    config : sizes; the depth of pad i is `config.pad_words[i]`.
    readers, writers : number of ports; port 0 has the highest priority.

    Members
    -------
    reads : array of In(PadRead)
    writes : array of In(PadWrite)
    """

    def __init__(self, config: AcceleratorConfig, *, readers: int, writers: int) -> None:
        self._config = config
        super().__init__({"reads": In(PadRead(config)).array(readers), "writes": In(PadWrite(config)).array(writers)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        words = []
        for pad, depth in enumerate(config.pad_words):
            granularity = config.write_group * config.act_bits
            memory = Ram(width=config.pad_word_bits, depth=depth, granularity=granularity)
            m.submodules[f"pad{pad}"] = memory
            words.append(self._connect_reads(m, memory, pad))
            self._connect_writes(m, memory, pad, depth)
        for port in self.writes:
            m.d.comb += port.ready.eq(~_refused(port, self.writes))
        for port in self.reads:
            m.d.comb += port.ready.eq(~_refused(port, self.reads))
            self._return_data(m, port, words)
        return m

    def _connect_reads(self, m: Module, memory: Ram, pad: int) -> Signal:
        """Read `memory` for the first requester; returns the output register."""
        enable, address = Signal(name=f"fetch{pad}"), Signal.like(memory.read_address, reset_less=True)
        m.d.sync += enable.eq(0)
        for request in reversed(list(self.reads)):
            with m.If(request.valid & (request.pad == pad)):
                m.d.sync += [enable.eq(1), address.eq(request.address)]
        m.d.comb += [memory.read_enable.eq(enable), memory.read_address.eq(address)]
        fetched = Signal(name=f"fetched{pad}")
        word = Signal(self._config.pad_word_bits, reset_less=True, name=f"word{pad}")
        m.d.sync += fetched.eq(enable)
        with m.If(fetched):
            m.d.sync += word.eq(memory.read_data)
        return word

    def _connect_writes(self, m: Module, memory: Ram, pad: int, depth: int) -> None:
        """Write `memory` for the first requester, if the address exists."""
        enable, address = Signal.like(memory.write_enable), Signal.like(memory.write_address, reset_less=True)
        word, exists = Signal.like(memory.write_data, reset_less=True), Signal(reset_less=True)
        m.d.sync += enable.eq(0)
        for request in reversed(list(self.writes)):
            with m.If(request.valid & (request.pad == pad)):
                m.d.sync += [enable.eq(request.mask), exists.eq(request.address < depth)]
                m.d.sync += [address.eq(request.address), word.eq(request.data)]
        m.d.comb += [
            memory.write_enable.eq(Mux(exists, enable, 0)),
            memory.write_address.eq(address),
            memory.write_data.eq(word),
        ]

    def _return_data(self, m: Module, port: wiring.PureInterface, words: list[Signal]) -> None:
        """Choose the pad that a granted request was for, when its data is there."""
        valid = Signal(PAD_READ_LATENCY)
        pads = [Signal(range(PADS), name=f"pad_after_{i + 1}") for i in range(PAD_READ_LATENCY)]
        m.d.sync += valid.eq(Cat(port.valid & port.ready, valid))
        m.d.sync += [after.eq(before) for before, after in zip([port.pad, *pads], pads)]
        with m.Switch(pads[-1]):
            for pad, word in enumerate(words):
                with m.Case(pad):
                    m.d.comb += port.data.eq(word)
        m.d.comb += port.data_valid.eq(valid[-1])


def _refused(port: wiring.PureInterface, ports: list[wiring.PureInterface]) -> Value:
    """Whether a port with higher priority asks for the same pad."""
    higher = list(ports)[: [p is port for p in ports].index(True)]
    return Cat(p.valid & (p.pad == port.pad) for p in higher).any()
