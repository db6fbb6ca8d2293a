"""Weights of the MAC array, prefetched from external memory over all AXI ports."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from hw.arithmetic.constant_product import constant_product
from hw.bus.axi4 import Axi4Read
from hw.bus.reader import AxiReader
from hw.config import AcceleratorConfig
from hw.memory.parameter_stream import stream_fetch

__all__ = ["WeightStream"]


class WeightStream(wiring.Component):
    """Words of `stream_bits` for the matmul engine, up to `weight_buffer_words` ahead of their use.

    Beat i of a fetch comes over port i mod `bus_ports`, from `address + port * port_stride + (i // bus_ports) *
    bus_bytes`. Each port gathers its part of a word into its own FIFO; a word is there when every port has its part.

    Latency: address valid 2 cycles after the fetch is taken, a word 2 cycles after its last beat.
    Throughput: a word per `stream_bits / (bus_bits * bus_ports)` cycles from memory; a buffered word per cycle.

    Members
    -------
    fetch : In(stream of stream_fetch), words of stream_bits
    port_stride : In(32), bytes from one port's part to the next; constant from 2 cycles before the first fetch
    words : Out(stream of stream_bits)
    buses : array of Out(Axi4Read)
    halt : In(1), issue no more bursts
    error : Out(1), pulse when a beat did not answer OKAY
    outstanding : Out(1), a burst is in flight
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                "fetch": In(stream.Signature(stream_fetch(config))),
                "port_stride": In(32),
                "words": Out(stream.Signature(config.stream_bits)),
                "buses": Out(Axi4Read(config.bus_bits, config.address_bits)).array(config.bus_ports),
                "halt": In(1),
                "error": Out(1),
                "outstanding": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        beats_per_word = config.stream_bits // (config.bus_bits * config.bus_ports)  # and port
        readers = [
            AxiReader(
                data_width=config.bus_bits,
                fifo_depth=config.weight_buffer_words,
                gather=beats_per_word,
                address_bits=config.address_bits,
            )
            for _ in range(config.bus_ports)
        ]

        # a fetch is taken by all ports at once
        fetch_all = Cat(reader.command.ready for reader in readers).all()
        word_ready = Cat(reader.data.valid for reader in readers).all()
        m.d.comb += [self.fetch.ready.eq(fetch_all), self.words.valid.eq(word_ready)]
        for port, reader in enumerate(readers):
            m.submodules[f"reader{port}"] = reader
            wiring.connect(m, reader.bus, wiring.flipped(self.buses[port]))
            offset = Signal(config.address_bits, name=f"offset{port}")
            m.d.sync += offset.eq(constant_product(self.port_stride, port))
            m.d.comb += [
                reader.command.payload.address.eq(self.fetch.payload.address + offset),
                reader.command.payload.beats.eq(self.fetch.payload.words * beats_per_word),
                reader.command.valid.eq(self.fetch.valid & fetch_all),
                reader.data.ready.eq(self.words.ready & word_ready),
                reader.halt.eq(self.halt),
            ]
            # beats of a word alternate between the ports
            for k in range(beats_per_word):
                beat = self.words.payload.word_select(k * config.bus_ports + port, config.bus_bits)
                m.d.comb += beat.eq(reader.data.payload.word_select(k, config.bus_bits))
        m.d.comb += [
            self.error.eq(Cat(reader.error for reader in readers).any()),
            self.outstanding.eq(Cat(reader.outstanding for reader in readers).any()),
        ]
        return m
