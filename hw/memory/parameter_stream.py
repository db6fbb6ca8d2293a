"""Parameters of the small engines, prefetched from external memory."""

from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.bus.axi4 import Axi4Read
from hw.bus.reader import AxiReader
from hw.config import AcceleratorConfig

__all__ = ["ParameterStream", "stream_fetch"]


def stream_fetch(config: AcceleratorConfig) -> data.StructLayout:
    """Fetch `words` words (at least 1) of a stream from the absolute `address`, aligned to the bus."""
    return data.StructLayout({"address": config.address_bits, "words": 24})


class ParameterStream(wiring.Component):
    """Words of `bus_bits` for the depthwise or the norm engine, up to `parameter_buffer_words` ahead of their use.

    Latency: address valid 2 cycles after the fetch is taken, a word 2 cycles after its beat.
    Throughput: one word per cycle, without bubbles between fetches.

    Members
    -------
    fetch : In(stream of stream_fetch)
    words : Out(stream of bus_bits)
    bus : Out(Axi4Read)
    halt, error, outstanding : as `AxiReader`
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "fetch": In(stream.Signature(stream_fetch(config))),
                "words": Out(stream.Signature(config.bus_bits)),
                "bus": Out(Axi4Read(config.bus_bits, config.address_bits)),
                "halt": In(1),
                "error": Out(1),
                "outstanding": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        m.submodules.reader = reader = AxiReader(
            data_width=config.bus_bits, fifo_depth=config.parameter_buffer_words, address_bits=config.address_bits
        )
        wiring.connect(m, reader.bus, wiring.flipped(self.bus))
        wiring.connect(m, reader.data, wiring.flipped(self.words))
        m.d.comb += [
            reader.command.payload.address.eq(self.fetch.payload.address),
            reader.command.payload.beats.eq(self.fetch.payload.words),
            reader.command.valid.eq(self.fetch.valid),
            self.fetch.ready.eq(reader.command.ready),
            reader.halt.eq(self.halt),
            self.error.eq(reader.error),
            self.outstanding.eq(reader.outstanding),
        ]
        return m
