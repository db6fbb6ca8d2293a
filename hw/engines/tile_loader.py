"""Distributes the parameter stream of the matmul engine: tables, requantization records, weight tiles."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AcceleratorConfig
from hw.control.descriptors import record_words, table_words
from hw.engines.countdown import Countdown
from hw.engines.mac_array import TileWrite
from hw.interfaces import StateRead

__all__ = ["LoadTask", "Phase", "TileLoader"]


class LoadTask(data.Struct):
    """What the loader does for one instruction; see `MatmulBody`. Counts are less one."""

    table_load: 1
    from_state: 1
    state_tile: 8
    last_tile: 12
    last_block: 12


class Phase(enum.Enum, shape=2):
    """What the next stream word is."""

    IDLE = 0
    TABLE = 1
    RECORDS = 2
    TILES = 3


class TileLoader(wiring.Component):
    """Takes one stream word per cycle: [table], then per output tile [records], weight tiles.

    With `from_state`, tiles come from the state buffer, and output tile 0 has no records.

    The next tile is loaded while the current one is in use. `tile_ready`: a whole tile is on its way; `take` uses it
    up. One word of the tile after that waits in a register, so that `words.ready` does not depend on `take`; `write`
    follows `WRITE_DELAY` cycles behind the words, or behind the `take` that they waited for, so that it fits the MAC
    array if the `swap` follows `WRITE_DELAY` cycles behind `take`. `phase` says what is loaded.

    Throughput: a tile every `tile_words` cycles. Tables, records and tiles wait for their consumers one by one, in the
    order of the stream; a consumer never waits for anything that comes later in the stream.
    """

    WRITE_DELAY = 5

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        words = stream.Signature(config.stream_bits)
        super().__init__(
            {
                "task": In(stream.Signature(LoadTask)),
                "words": In(words),
                "state": Out(StateRead(config)),
                "table": Out(words),
                "records": Out(words),
                "write": Out(TileWrite(config)),
                "tile_ready": Out(1),
                "take": In(1),
                "phase": Out(Phase),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self._config
        sizes = {
            Phase.TABLE: table_words(config, config.stream_bits),
            Phase.RECORDS: record_words(config.out_lanes, config.stream_bits),
            Phase.TILES: config.tile_words,
        }
        task = Signal(LoadTask)
        phase = self.phase
        word = Signal(range(max(sizes.values())))
        last_word = Signal()
        fire = Signal()
        room = Signal()
        m.d.comb += [
            self.task.ready.eq(phase == Phase.IDLE),
            self.table.payload.eq(self.words.payload),
            self.records.payload.eq(self.words.payload),
        ]
        with m.Switch(phase):
            for consumer, port in ((Phase.TABLE, self.table), (Phase.RECORDS, self.records)):
                with m.Case(consumer):
                    m.d.comb += [
                        port.valid.eq(self.words.valid),
                        self.words.ready.eq(port.ready),
                        fire.eq(port.valid & port.ready),
                        last_word.eq(word == sizes[consumer] - 1),
                    ]
            with m.Case(Phase.TILES):
                m.d.comb += [
                    self.words.ready.eq(room & ~task.from_state),
                    fire.eq(room & (self.words.valid | task.from_state)),
                    last_word.eq(word == sizes[Phase.TILES] - 1),
                ]
        with m.If(fire):
            m.d.sync += word.eq(Mux(last_word, 0, word + 1))
        self._sequence(m, task, phase, fire & last_word)
        m.d.comb += room.eq(self._write_tile(m, task, fire & (phase == Phase.TILES), word, last_word))
        return m

    def _sequence(self, m: Module, task: data.View, phase: Signal, finished: Signal) -> None:
        """Phases of an instruction; `finished` ends the current table, block of records, or tile."""
        tiles, blocks = Countdown(12), Countdown(12)
        state_tile = Signal(len(self.state.tile))
        m.d.comb += self.state.tile.eq(state_tile)
        with m.If(self.task.valid & self.task.ready):
            new = self.task.payload
            m.d.sync += [
                task.eq(new),
                *tiles.load(new.last_tile, new.last_tile == 0),
                *blocks.load(new.last_block, new.last_block == 0),
                state_tile.eq(new.state_tile),
                phase.eq(Mux(new.table_load, Phase.TABLE, Mux(new.from_state, Phase.TILES, Phase.RECORDS))),
            ]
        with m.If(finished), m.Switch(phase):
            with m.Case(Phase.TABLE):
                m.d.sync += phase.eq(Mux(task.from_state, Phase.TILES, Phase.RECORDS))
            with m.Case(Phase.RECORDS):
                m.d.sync += phase.eq(Phase.TILES)
            with m.Case(Phase.TILES):
                m.d.sync += [state_tile.eq(state_tile + 1), *blocks.step()]
                with m.If(blocks.last):
                    m.d.sync += [*tiles.step(), phase.eq(Mux(tiles.last, Phase.IDLE, Phase.RECORDS))]

    def _write_tile(self, m: Module, task: data.View, fire: Signal, word: Signal, last_word: Signal) -> Value:
        """Words of the stream wait as long as words of the state buffer take, and until the tile before was taken; then
        both pass registers, until the tile before is in use. Returns whether there is room for a word."""
        valid = Signal()
        index = Signal.like(word)
        last = Signal()
        from_state = Signal()
        payload = Signal(self._config.stream_bits)
        full, next_full = Signal(), Signal()  # a whole tile has gone on, and was not taken
        moves = valid & ~full
        room = ~valid | ~full
        m.d.comb += [
            self.state.enable.eq(fire & task.from_state),
            self.state.word.eq(word),
            next_full.eq(~self.take & (full | (moves & last))),
        ]
        m.d.sync += [
            full.eq(next_full),
            # what `full | (valid & last)` will be: a long way begins here
            self.tile_ready.eq(next_full | (Mux(room, fire, valid) & Mux(fire, last_word, last))),
        ]

        with m.If(room):
            m.d.sync += valid.eq(fire)
        with m.If(fire):
            m.d.sync += [index.eq(word), last.eq(last_word), from_state.eq(task.from_state)]
            with m.If(~task.from_state):
                m.d.sync += payload.eq(self.words.payload)
        moved, number, data_word = moves, index, Mux(from_state, self.state.data, payload)
        for stage in range(1, self.WRITE_DELAY):
            later = [Signal.like(value, name=f"write{stage}_{i}") for i, value in enumerate((valid, index, payload))]
            m.d.sync += later[0].eq(moved)
            with m.If(moved):
                m.d.sync += [later[1].eq(number), later[2].eq(data_word)]
            moved, number, data_word = later
        m.d.comb += [self.write.valid.eq(moved), self.write.word.eq(number), self.write.data.eq(data_word)]
        return room
