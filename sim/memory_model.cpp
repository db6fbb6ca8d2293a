// AXI4 memory of memory_model.sv: protocol engine, storage, faults, and statistics.
//
// Settings are plusargs (`+memory_NAME=VALUE`), so that one build runs with any latency, bandwidth, and seed; runner.py
// writes them and reads the files that are left at the end of the simulation. Addresses are bytes.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "svdpi.h"
#include "verilated.h"

namespace {

constexpr unsigned OKAY = 0, SLVERR = 2, DECERR = 3;
constexpr unsigned INCR = 1;
constexpr uint64_t PAGE = 4096;  // a burst must not cross a boundary of 4 KiB
constexpr int BUFFER_BEATS = 4;  // beats that may follow each other at full speed after a pause, whatever the rate
constexpr size_t MESSAGES = 16;  // broken rules that are kept in words; all are counted

std::string setting(const char* name) {
    const std::string prefix = std::string("memory_") + name + "=";
    const char* match = Verilated::threadContextp()->commandArgsPlusMatch(prefix.c_str());
    return *match ? match + 1 + prefix.size() : "";
}

uint64_t number(const char* name, uint64_t fallback) {
    const std::string text = setting(name);
    return text.empty() ? fallback : std::strtoull(text.c_str(), nullptr, 0);
}

double fraction(const char* name, double fallback) {
    const std::string text = setting(name);
    return text.empty() ? fallback : std::strtod(text.c_str(), nullptr);
}

[[noreturn]] void fail(const std::string& message) {
    std::fprintf(stderr, "memory_model: %s\n", message.c_str());
    std::exit(1);
}

struct Range {
    uint64_t base = 0, bytes = 0;
    bool contains(uint64_t address, uint64_t size) const {
        return address >= base && size <= bytes && address - base <= bytes - size;
    }
};

struct Request {  // an AR or AW channel in one cycle
    uint64_t bits;
    uint64_t address() const { return bits & ((uint64_t{1} << 40) - 1); }
    unsigned beats() const { return (bits >> 40 & 0xff) + 1; }
    unsigned size() const { return bits >> 48 & 7; }
    unsigned burst() const { return bits >> 51 & 3; }
    bool valid() const { return bits >> 53 & 1; }
};

struct Channels {  // W and the ready signals of R and B in one cycle
    uint64_t bits;
    uint32_t strobes() const { return static_cast<uint32_t>(bits); }
    bool wvalid() const { return bits >> 32 & 1; }
    bool wlast() const { return bits >> 33 & 1; }
    bool rready() const { return bits >> 34 & 1; }
    bool bready() const { return bits >> 35 & 1; }
};

struct Burst {
    uint64_t address;
    unsigned beats;
    uint64_t ready;  // first cycle in which an answer may be seen
    unsigned response = OKAY;
};

using Bytes = std::array<uint8_t, 32>;  // of the widest bus

struct Beat {
    Bytes data;
    uint32_t strobes;
    bool last;
};

struct Response {
    unsigned code;
    uint64_t ready;
};

struct Port {
    std::deque<Burst> reads, writes;
    std::deque<Beat> data;
    std::deque<Response> responses;
    // what the accelerator sees in the current cycle
    bool arready = false, awready = false, wready = false, rvalid = false, rlast = false, bvalid = false;
    unsigned rresp = OKAY, bresp = OKAY;
    Bytes rdata{};
    // offers of the last cycle that were not taken, which must not change
    Request held_read{0}, held_write{0};
    Channels held_data{0};
    Bytes held_bytes{};
};

struct Frame {
    uint64_t read_bytes = 0, written_bytes = 0, stray_reads = 0, stray_writes = 0, stray_address = 0;
};

class Memory {
   public:
    Memory(int ports, int data_bits)
        : beat_(data_bits / 8),
          latency_(number("latency", 1)),
          write_latency_(number("write_latency", 1)),
          rate_(fraction("bytes_per_cycle", 1e9)),
          stall_(fraction("stall", 0) * 4294967296.0),
          outstanding_(number("outstanding", 8)),
          random_(number("seed", 1) * 0x9E3779B97F4A7C15ull | 1),
          error_{number("error_base", 0), number("error_bytes", 0)},
          result_{number("result_base", 0), number("result_bytes", 0)},
          ports_(ports) {
        load(setting("image"), number("image_base", 0));
        results_.assign(result_.bytes, 0xA5);  // whatever is never written does not look like zeros
        write_cycles_.assign((result_.bytes + beat_ - 1) / beat_, 0);
    }

    bool cycle(bool reset, int frame, Range window, const uint32_t* reads, const uint32_t* writes,
               const uint32_t* channels, const uint32_t* write_data, uint32_t* reply, uint32_t* read_data) {
        ++now_;
        if (!frame_ || frame != index_) frame_ = &frames_[index_ = frame];
        window_ = window;
        tokens_ = std::min(tokens_ + rate_, std::max<double>(rate_, BUFFER_BEATS * beat_));
        for (size_t i = 0; i < ports_.size(); ++i) {
            // Who may take the bandwidth first goes round, so that all ports get the same share.
            const size_t p = (now_ + i) % ports_.size();
            Port& port = ports_[p];
            if (reset) {
                port = Port{};
            } else {
                const auto* bytes = reinterpret_cast<const uint8_t*>(write_data) + p * beat_;
                step(p, port, Request{word(reads, p)}, Request{word(writes, p)}, Channels{word(channels, p)}, bytes);
            }
            reply[p] = port.rvalid | port.rlast << 1 | port.rresp << 2 | port.bvalid << 4 | port.bresp << 5 |
                       port.arready << 7 | port.awready << 8 | port.wready << 9;
            std::memcpy(reinterpret_cast<uint8_t*>(read_data) + p * beat_, port.rdata.data(), beat_);
        }
        return broken_ != 0;
    }

    void save() const {
        store(setting("result"), results_.data(), results_.size());
        store(setting("write_cycles"), write_cycles_.data(), write_cycles_.size() * sizeof(uint64_t));
        const std::string path = setting("report");
        if (path.empty()) return;
        std::string text = "{\"cycles\": " + std::to_string(now_) + ", \"broken_rules\": " + std::to_string(broken_) +
                           ", \"messages\": [";
        for (size_t i = 0; i < messages_.size(); ++i) text += (i ? ", \"" : "\"") + messages_[i] + "\"";
        text += "], \"frames\": {";
        bool first = true;
        for (const auto& [index, f] : frames_) {
            text += (first ? "\"" : ", \"") + std::to_string(index) +
                    "\": {\"read_bytes\": " + std::to_string(f.read_bytes) +
                    ", \"written_bytes\": " + std::to_string(f.written_bytes) +
                    ", \"stray_reads\": " + std::to_string(f.stray_reads) +
                    ", \"stray_writes\": " + std::to_string(f.stray_writes) +
                    ", \"stray_address\": " + std::to_string(f.stray_address) + "}";
            first = false;
        }
        text += "}}\n";
        store(path, text.data(), text.size());
    }

   private:
    static uint64_t word(const uint32_t* words, size_t i) { return words[2 * i] | uint64_t{words[2 * i + 1]} << 32; }

    void load(const std::string& path, uint64_t base) {
        if (path.empty()) return;
        std::FILE* file = std::fopen(path.c_str(), "rb");
        if (!file) fail("cannot open the memory image " + path);
        std::fseek(file, 0, SEEK_END);
        image_.resize(std::ftell(file));
        std::rewind(file);
        if (std::fread(image_.data(), 1, image_.size(), file) != image_.size()) fail("cannot read " + path);
        std::fclose(file);
        image_range_ = {base, image_.size()};
    }

    static void store(const std::string& path, const void* data, size_t bytes) {
        if (path.empty()) return;
        std::FILE* file = std::fopen(path.c_str(), "wb");
        if (!file || std::fwrite(data, 1, bytes, file) != bytes) fail("cannot write " + path);
        std::fclose(file);
    }

    bool stalled() {  // xorshift64*: one draw per channel and cycle
        if (!stall_) return false;
        random_ ^= random_ >> 12, random_ ^= random_ << 25, random_ ^= random_ >> 27;
        return (random_ * 0x2545F4914F6CDD1Dull) >> 32 < stall_;
    }

    void broken(size_t port, const std::string& rule) {
        if (++broken_; messages_.size() < MESSAGES)
            messages_.push_back("cycle " + std::to_string(now_) + ", port " + std::to_string(port) + ": " + rule);
    }

    void step(size_t p, Port& port, Request read, Request write, Channels in, const uint8_t* bytes) {
        check_stable(p, port, read, write, in, bytes);
        if (read.valid() && port.arready) port.reads.push_back(accept(p, "AR", read));
        if (write.valid() && port.awready) port.writes.push_back(accept(p, "AW", write));
        if (in.wvalid() && port.wready) {
            Beat& beat = port.data.emplace_back(Beat{{}, in.strobes(), in.wlast()});
            std::copy_n(bytes, beat_, beat.data.begin());
            tokens_ -= beat_;
        }
        if (port.rvalid && in.rready()) port.rvalid = false;
        if (port.bvalid && in.bready()) port.bvalid = false;
        answer_reads(port);
        answer_writes(p, port);
        port.arready = port.reads.size() < outstanding_ && !stalled();
        port.awready = port.writes.size() < outstanding_ && !stalled();
        port.wready = port.data.size() < outstanding_ && tokens_ > 0 && !stalled();
    }

    Burst accept(size_t p, const char* channel, Request request) {
        const std::string name = channel;
        const uint64_t bytes = uint64_t{request.beats()} * beat_;
        if (request.burst() != INCR) broken(p, name + " burst type is not INCR");
        if (1u << request.size() != beat_) broken(p, name + " size is not the bus width");
        if (request.address() % beat_) broken(p, name + " address is not aligned to the bus width");
        if (request.address() / PAGE != (request.address() + bytes - 1) / PAGE) broken(p, name + " burst crosses 4 KiB");
        return {request.address(), request.beats(), now_ + latency_};
    }

    void answer_reads(Port& port) {
        if (port.rvalid || port.reads.empty() || port.reads.front().ready > now_ + 1 || tokens_ <= 0 || stalled())
            return;
        Burst& burst = port.reads.front();
        tokens_ -= beat_;
        frame_->read_bytes += beat_;
        port.rresp = read(burst.address, port.rdata.data());
        burst.address += beat_;
        port.rlast = --burst.beats == 0;
        port.rvalid = true;
        if (port.rlast) port.reads.pop_front();
    }

    void answer_writes(size_t p, Port& port) {
        while (!port.writes.empty() && !port.data.empty()) {
            Burst& burst = port.writes.front();
            const Beat& beat = port.data.front();
            burst.response = std::max(burst.response, write(burst.address, beat));
            burst.address += beat_;
            const bool last = --burst.beats == 0;
            if (beat.last != last) broken(p, last ? "W last is missing" : "W last comes too early");
            if (last) {
                port.responses.push_back({burst.response, now_ + write_latency_});
                port.writes.pop_front();
            }
            port.data.pop_front();
        }
        if (port.bvalid || port.responses.empty() || port.responses.front().ready > now_ + 1 || stalled()) return;
        port.bvalid = true;
        port.bresp = port.responses.front().code;
        port.responses.pop_front();
    }

    unsigned read(uint64_t address, uint8_t* data) {
        std::memset(data, 0xDB, beat_);  // bytes that no one has defined
        if (error_.contains(address, 1)) return SLVERR;
        if (image_range_.contains(address, 1)) {
            const uint64_t offset = address - image_range_.base;
            std::memcpy(data, &image_[offset], std::min<uint64_t>(beat_, image_.size() - offset));
            return OKAY;
        }
        if (result_.contains(address, beat_)) {
            std::memcpy(data, &results_[address - result_.base], beat_);
            return OKAY;
        }
        if (!frame_->stray_reads++ && !frame_->stray_writes) frame_->stray_address = address;
        return DECERR;
    }

    unsigned write(uint64_t address, const Beat& beat) {
        if (error_.contains(address, 1)) return SLVERR;
        if (!window_.contains(address, beat_) || !result_.contains(address, beat_)) {
            // Answered like a good write: a real memory would have been damaged without a word.
            if (beat.strobes && !frame_->stray_writes++) frame_->stray_address = address;
            return OKAY;
        }
        const uint64_t offset = address - result_.base;
        for (unsigned i = 0; i < beat_; ++i) {
            if (beat.strobes >> i & 1) results_[offset + i] = beat.data[i], ++frame_->written_bytes;
        }
        write_cycles_[offset / beat_] = now_;
        return OKAY;
    }

    // AXI4 A3.2.1: once valid, a channel keeps valid and its payload until it is taken.
    void check_stable(size_t p, Port& port, Request read, Request write, Channels in, const uint8_t* bytes) {
        if (port.held_read.valid() && read.bits != port.held_read.bits) broken(p, "AR changed before it was taken");
        if (port.held_write.valid() && write.bits != port.held_write.bits) broken(p, "AW changed before it was taken");
        constexpr uint64_t W_BITS = (uint64_t{1} << 34) - 1;
        if (port.held_data.wvalid() && ((in.bits ^ port.held_data.bits) & W_BITS ||
                                        std::memcmp(bytes, port.held_bytes.data(), beat_)))
            broken(p, "W changed before it was taken");
        port.held_read.bits = port.arready ? 0 : read.bits;
        port.held_write.bits = port.awready ? 0 : write.bits;
        port.held_data.bits = port.wready ? 0 : in.bits;
        if (port.held_data.wvalid()) std::memcpy(port.held_bytes.data(), bytes, beat_);
    }

    const unsigned beat_;  // bytes
    const uint64_t latency_, write_latency_;
    const double rate_;  // bytes per cycle of all ports and both directions
    const uint64_t stall_;  // probability times 2**32
    const size_t outstanding_;
    uint64_t random_;
    const Range error_, result_;
    Range image_range_, window_;
    std::vector<uint8_t> image_, results_;
    std::vector<uint64_t> write_cycles_;  // of each beat of the result area; 0: never written
    std::vector<Port> ports_;
    std::map<int, Frame> frames_;
    Frame* frame_ = nullptr;
    int index_ = 0;
    uint64_t now_ = 0;
    double tokens_ = 0;
    uint64_t broken_ = 0;
    std::vector<std::string> messages_;
};

std::unique_ptr<Memory> memory;

}  // namespace

extern "C" {

void memory_open(int ports, int data_bits) { memory = std::make_unique<Memory>(ports, data_bits); }

svBit memory_cycle(svBit reset, int frame, long long result_base, long long result_bytes,
                   const svBitVecVal* read_request, const svBitVecVal* write_request, const svBitVecVal* channels,
                   const svBitVecVal* write_data, svBitVecVal* reply, svBitVecVal* read_data) {
    const Range window{static_cast<uint64_t>(result_base), static_cast<uint64_t>(result_bytes)};
    return memory->cycle(reset, frame, window, read_request, write_request, channels, write_data, reply, read_data);
}

void memory_close() {
    if (memory) memory->save();
    memory.reset();
}
}
