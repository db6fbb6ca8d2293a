// The file of activity_log.sv: records of four 32-bit words, the cycle and the state from that cycle on, low bits first.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include "svdpi.h"
#include "verilated.h"

namespace {

constexpr int STATE_WORDS = 3;
std::FILE* file = nullptr;

}  // namespace

extern "C" {

svBit activity_open() {
    const std::string match = Verilated::threadContextp()->commandArgsPlusMatch("activity=");
    if (match.empty()) return 0;
    file = std::fopen(match.c_str() + std::strlen("+activity="), "wb");
    return file != nullptr;
}

void activity_record(int cycle, const svBitVecVal* state) {
    uint32_t record[1 + STATE_WORDS] = {static_cast<uint32_t>(cycle)};
    std::memcpy(record + 1, state, sizeof(uint32_t) * STATE_WORDS);
    std::fwrite(record, sizeof(record), 1, file);
}

void activity_close() {
    if (file) std::fclose(file);
    file = nullptr;
}
}
